//! Turns a choice of terms back into operators, each at a place where all that it reads is there and nobody waits yet.

use super::extract::{Choice, Priced};
use super::forms::Region;
use super::term::{Head, Term, Type};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Attribute, Content, Op, Value, ValueId, Work};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where an operator stands: `2n + 1` is the place of operator `n` of the graph, `2n` is just before it.
pub(super) type Slot = u32;

/// Operators that can take the place of a region's.
#[derive(Debug)]
pub(super) struct Patch {
    /// In the order in which they stand.
    pub ops: Vec<(Slot, Op)>,
    /// Values that the graph does not have yet.
    pub values: Vec<Value>,
    /// Values that are gone, and those that are the same.
    pub renamed: BTreeMap<ValueId, ValueId>,
}

/// One operator to be written.
struct Unit {
    term: Term,
    /// Its result; of a Split those of its parts that are needed.
    classes: Vec<Id>,
    ready: Slot,
    latest: Slot,
    slot: Slot,
    /// The place of the operator whose result it makes.
    wish: Option<Slot>,
}

/// Writes a choice. `values` is the number that the next new value gets, `opset` the standard operator set. Nothing where
/// some value would come too late, or an operator cannot be written in this set.
pub(super) fn patch(region: &Region, priced: &Priced, choice: &Choice, values: usize, opset: i64) -> Option<Patch> {
    let order = priced.order(choice)?;
    let mut writer = Writer { region, values, opset, made: BTreeMap::new(), new: Vec::new(), named: BTreeMap::new() };
    for (value, class) in &region.classes {
        writer.named.entry(*class).or_default().push(*value);
    }
    for class in &order {
        let term = &region.forms[*class].nodes[choice[class]];
        let value = match term.head {
            Head::Value(value) => ValueId(value),
            _ => writer.value(*class),
        };
        writer.made.insert(*class, value);
    }
    let units = writer.units(&order, choice)?;
    writer.write(units, choice)
}

struct Writer<'a, 'b> {
    region: &'a Region<'b>,
    values: usize,
    opset: i64,
    /// The value that stands for a class.
    made: BTreeMap<Id, ValueId>,
    new: Vec<Value>,
    /// The values of the graph that a class is.
    named: BTreeMap<Id, Vec<ValueId>>,
}

impl Writer<'_, '_> {
    /// The value of a class that is computed: an output of the model, else the first of the graph's, else a new one.
    fn value(&mut self, class: Id) -> ValueId {
        let named = self.named.get(&class).map_or(&[][..], Vec::as_slice);
        let output = named.iter().find(|v| self.region.facts.outputs.contains(v));
        match output.or(named.first()) {
            Some(value) => *value,
            None => {
                let Type { dtype, shape } = self.region.forms[class].data;
                let shape = self.region.forms.analysis.lists.get(shape).to_vec();
                self.add("moved", dtype, shape, Content::Computed)
            }
        }
    }

    fn add(&mut self, name: &str, dtype: DType, shape: Vec<Expr>, content: Content) -> ValueId {
        let id = ValueId((self.values + self.new.len()) as u32);
        self.new.push(Value { name: name.to_owned(), dtype, shape, content });
        id
    }

    fn term(&self, class: Id, choice: &Choice) -> &Term {
        &self.region.forms[class].nodes[choice[&class]]
    }

    /// The operators to be written, operands first, each with its place.
    fn units(&self, order: &[Id], choice: &Choice) -> Option<Vec<Unit>> {
        let facts = self.region.facts;
        let after = |value: ValueId| facts.producer[value.0 as usize].map_or(0, |made| 2 * made + 2);
        let outside = |class: &Id| {
            let named = self.named.get(class).into_iter().flatten();
            let readers = named.flat_map(|v| facts.readers[v.0 as usize].iter());
            readers.filter(|r| !self.region.ops.contains(r)).map(|r| 2 * r).min()
        };
        let mut units: Vec<Unit> = Vec::new();
        let mut unit_of: HashMap<Id, usize> = HashMap::new();
        let mut splits: HashMap<(u32, Id), usize> = HashMap::new();
        for class in order {
            let term = self.term(*class, choice);
            if let Head::Value(value) = term.head {
                // Who reads the value that is gone must find this one.
                if outside(class).is_some_and(|latest| after(ValueId(value)) > latest) {
                    return None;
                }
                continue;
            }
            let made = facts.producer.get(self.made[class].0 as usize).copied().flatten();
            if let Head::Part(op, _) = term.head
                && let Some(unit) = splits.get(&(op, term.operands[0]))
            {
                unit_of.insert(*class, *unit);
                units[*unit].classes.push(*class);
                continue;
            }
            let ready = term.operands.iter().map(|operand| match unit_of.get(operand) {
                Some(unit) => units[*unit].ready,
                None => after(self.made[operand]),
            });
            let ready = ready.max().unwrap_or(0);
            if let Head::Part(op, _) = term.head {
                splits.insert((op, term.operands[0]), units.len());
            }
            unit_of.insert(*class, units.len());
            let wish = made.map(|n| 2 * n + 1);
            let classes = vec![*class];
            units.push(Unit { term: term.clone(), classes, ready, latest: Slot::MAX, slot: 0, wish });
        }
        for n in (0..units.len()).rev() {
            let outside = units[n].classes.iter().filter_map(outside).min();
            let latest = units[n].latest.min(outside.unwrap_or(Slot::MAX));
            let ready = units[n].ready;
            if ready > latest {
                return None;
            }
            // What nobody waits for stands as early as it can.
            let wish = units[n].wish.unwrap_or(if latest == Slot::MAX { ready } else { latest });
            units[n].slot = wish.clamp(ready, latest);
            for operand in units[n].term.operands.clone() {
                if let Some(unit) = unit_of.get(&operand) {
                    units[*unit].latest = units[*unit].latest.min(units[n].slot);
                }
            }
        }
        Some(units)
    }

    fn write(mut self, units: Vec<Unit>, choice: &Choice) -> Option<Patch> {
        let facts = self.region.facts;
        let mut ops = Vec::with_capacity(units.len());
        let mut slots: HashMap<ValueId, Slot> = HashMap::new();
        for unit in units {
            let op = self.op(&unit, choice)?;
            op.outputs.iter().flatten().for_each(|v| {
                slots.insert(*v, unit.slot);
            });
            ops.push((unit.slot, op));
        }
        let mut renamed = BTreeMap::new();
        for (class, values) in &self.named {
            // Some classes are needed no more.
            let Some(one) = self.made.get(class) else { continue };
            for value in values.iter().filter(|v| *v != one) {
                if facts.outputs.contains(value) {
                    let made = facts.producer[value.0 as usize]?;
                    let ready = slots.get(one).copied();
                    let ready = ready.unwrap_or(facts.producer[one.0 as usize].map_or(0, |n| 2 * n + 2));
                    let name = facts.graph.ops[made as usize].name.clone();
                    let op = plain("Identity", name, vec![Some(*one)], *value, Vec::new());
                    ops.push((ready.max(2 * made + 1), op));
                } else {
                    renamed.insert(*value, *one);
                }
            }
        }
        ops.sort_by_key(|(slot, _)| *slot);
        Some(Patch { ops, values: self.new, renamed })
    }

    /// The operator of the graph that makes exactly this, if there is one.
    fn original(&self, unit: &Unit) -> Option<&Op> {
        let facts = self.region.facts;
        let producers = unit.classes.iter().filter_map(|class| facts.producer.get(self.made[class].0 as usize));
        let mut own = producers.flatten().filter(|n| {
            let terms = self.region.terms.get(n);
            terms.is_some_and(|terms| terms.iter().any(|(_, term)| *term == unit.term))
        });
        own.next().map(|n| &facts.graph.ops[*n as usize])
    }

    /// The name that an operator gets; names are made unique when patches are put in.
    fn name(&self, unit: &Unit) -> String {
        let facts = self.region.facts;
        let made = facts.producer.get(self.made[&unit.classes[0]].0 as usize).copied().flatten();
        let near = made.or(self.region.ops.first().copied()).unwrap_or(0);
        facts.graph.ops[near as usize].name.clone()
    }

    fn op(&mut self, unit: &Unit, choice: &Choice) -> Option<Op> {
        let facts = self.region.facts;
        let operands: Vec<Option<ValueId>> =
            unit.term.operands.iter().map(|class| self.made.get(class).copied()).collect();
        let result = self.made[&unit.classes[0]];
        let name = self.name(unit);
        let original = self.original(unit).cloned();
        let shape = |class: Id| self.region.forms.analysis.lists.get(self.region.forms[class].data.shape).to_vec();
        let (from, to) = (unit.term.operands.first().map(|class| shape(*class)), shape(unit.classes[0]));
        match &unit.term.head {
            Head::Value(_) => None,
            Head::Part(first, _) => {
                let mut op = original.unwrap_or_else(|| Op { name, ..facts.graph.ops[*first as usize].clone() });
                op.inputs[0] = operands[0];
                let mut outputs: Vec<Option<ValueId>> = vec![None; op.outputs.len()];
                for class in &unit.classes {
                    if let Head::Part(_, part) = self.term(*class, choice).head {
                        outputs[part] = Some(self.made[class]);
                    }
                }
                for (output, was) in outputs.iter_mut().zip(&op.outputs).filter(|(output, _)| output.is_none()) {
                    // Nobody reads this part any more.
                    let was = facts.graph.value((*was)?);
                    *output = Some(self.add("unread", was.dtype, was.shape.clone(), Content::Computed));
                }
                op.outputs = outputs;
                Some(op)
            }
            Head::Map(first) | Head::Other(first) => {
                let mut op = original.unwrap_or_else(|| Op { name, ..facts.graph.ops[*first as usize].clone() });
                let mut operands = operands.into_iter();
                for input in op.inputs.iter_mut().filter(|input| input.is_some()) {
                    *input = operands.next()?;
                }
                op.outputs = vec![Some(result)];
                Some(op)
            }
            head if original.is_some() => {
                let mut op = original?;
                let many = matches!(head, Head::Concat(_));
                op.inputs.splice(..if many { op.inputs.len() } else { 1 }, operands);
                op.outputs = vec![Some(result)];
                Some(op)
            }
            Head::Transpose(order) => {
                let order = Attribute::Ints(order.iter().map(|at| *at as i64).collect());
                Some(plain("Transpose", name, operands, result, vec![("perm".to_owned(), order)]))
            }
            Head::Concat(axis) => {
                let axis = ("axis".to_owned(), Attribute::Int(*axis as i64));
                Some(plain("Concat", name, operands, result, vec![axis]))
            }
            Head::Reshape(_) => self.reshape(name, operands, result, &to),
            Head::Slice { starts, steps, .. } => {
                let starts = self.region.forms.analysis.lists.get(*starts).to_vec();
                self.slice(name, operands, result, (&starts, &to, steps), &from?)
            }
        }
    }

    fn reshape(
        &mut self,
        name: String,
        mut operands: Vec<Option<ValueId>>,
        result: ValueId,
        to: &[Expr],
    ) -> Option<Op> {
        let mut attributes = Vec::new();
        // To a Reshape a size of zero says "as it was", unless told otherwise.
        if !to.iter().all(Expr::is_positive) {
            attributes = vec![("allowzero".to_owned(), Attribute::Int(1))];
        }
        if self.opset < if attributes.is_empty() { 5 } else { 14 } {
            return None;
        }
        operands.push(Some(self.known("shape", to.to_vec())));
        Some(plain("Reshape", name, operands, result, attributes))
    }

    fn slice(
        &mut self,
        name: String,
        mut operands: Vec<Option<ValueId>>,
        result: ValueId,
        (starts, sizes, steps): (&[Expr], &[Expr], &[i64]),
        from: &[Expr],
    ) -> Option<Op> {
        let cut = |n: &usize| starts[*n].as_constant() != Some(0) || steps[*n] != 1 || sizes[*n] != from[*n];
        let axes: Vec<usize> = (0..from.len()).filter(cut).collect();
        let list = |of: &dyn Fn(usize) -> Expr| axes.iter().map(|n| of(*n)).collect::<Vec<Expr>>();
        if self.opset < 10 {
            return None;
        }
        // Beyond the last element that is taken, so that a step that leaves a rest ends where it should.
        let end = |n: usize| &starts[n] + &sizes[n] * Expr::constant(steps[n]);
        let lists = [
            ("starts", list(&|n| starts[n].clone())),
            ("ends", list(&end)),
            ("axes", list(&|n| Expr::constant(n as u64))),
            ("steps", list(&|n| Expr::constant(steps[n]))),
        ];
        for (name, list) in lists {
            let id = self.known(name, list);
            operands.push(Some(id));
        }
        Some(plain("Slice", name, operands, result, Vec::new()))
    }

    /// A list of integers.
    fn known(&mut self, name: &str, list: Vec<Expr>) -> ValueId {
        self.add(name, DType::I64, vec![Expr::constant(list.len() as u64)], Content::Known(list))
    }
}

/// An operator of the standard domain that computes nothing.
pub(crate) fn plain(
    kind: &str,
    name: String,
    inputs: Vec<Option<ValueId>>,
    result: ValueId,
    attributes: Vec<(String, Attribute)>,
) -> Op {
    let work = Work { flops: Expr::constant(0), inside_bytes: Expr::constant(0) };
    let (domain, kind, outputs) = (String::new(), kind.to_owned(), vec![Some(result)]);
    Op { name, domain, kind, inputs, outputs, captures: Vec::new(), attributes, work }
}

/// The operators that patches take away, and the values that the rest of the graph reads under another number.
pub(super) fn rename(op: &mut Op, renamed: &BTreeMap<ValueId, ValueId>) {
    let one = |id: &mut ValueId| {
        if let Some(to) = renamed.get(id) {
            *id = *to;
        }
    };
    op.inputs.iter_mut().flatten().for_each(one);
    op.captures.iter_mut().for_each(|(_, id)| one(id));
}

/// Names that are taken get a number.
#[derive(Default)]
pub(crate) struct Names(BTreeSet<String>);

impl Names {
    pub fn take(&mut self, name: &str) -> bool {
        self.0.insert(name.to_owned())
    }
    /// The name, or the first free one that begins so.
    pub fn unique(&mut self, name: String) -> String {
        if self.take(&name) {
            return name;
        }
        let mut number = 2u32;
        loop {
            let numbered = format!("{name}_{number}");
            if self.take(&numbered) {
                return numbered;
            }
            number += 1;
        }
    }
}
