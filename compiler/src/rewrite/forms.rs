//! The e-graph of a region: its operators as terms, and all that rules find equal.

use super::facts::Facts;
use super::form::Form;
use super::term::{Forms, Head, Term, Type, Types};
use berth_ir::expr::Expr;
use berth_ir::graph::{Op, ValueId};
use egg::{Id, Rewrite, Runner, SimpleScheduler};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// Most terms of a region's e-graph.
pub(super) const TERMS_MAX: usize = 5_000;
/// Most rounds in which all rules are applied.
const ROUNDS_MAX: usize = 12;
/// Rounds and terms end a search, a clock never does: equal graphs give equal plans.
const NO_CLOCK: Duration = Duration::from_secs(1 << 30);

/// A region in all its forms.
pub(super) struct Region<'a> {
    pub facts: &'a Facts<'a>,
    /// Its operators.
    pub ops: BTreeSet<u32>,
    pub forms: Forms,
    /// The class of each value that an operator of the region makes.
    pub classes: BTreeMap<ValueId, Id>,
    /// The term of each operator as the file has it; nothing for those that change nothing.
    pub terms: BTreeMap<u32, Vec<(Id, Term)>>,
}

impl<'a> Region<'a> {
    pub fn new(facts: &'a Facts<'a>, ops: BTreeSet<u32>, rules: &[Rewrite<Term, Types>]) -> Region<'a> {
        let mut made = Maker { facts, forms: Forms::default(), classes: BTreeMap::new(), heads: HashMap::new() };
        let mut terms = BTreeMap::new();
        for n in &ops {
            terms.insert(*n, made.op(*n));
        }
        let values: Vec<(ValueId, Id)> = made.classes.iter().map(|(v, id)| (*v, *id)).collect();
        for (value, class) in values {
            let same = ValueId(facts.same[value.0 as usize]);
            // An operator outside makes it already.
            if same != value && !made.classes.contains_key(&same) {
                let outside = made.leaf(same);
                made.join(class, outside);
            }
        }
        let Maker { mut forms, classes, .. } = made;
        forms.rebuild();
        let runner: Runner<Term, Types> = Runner::new(Types::default()).with_egraph(forms);
        let runner = runner.with_node_limit(TERMS_MAX).with_iter_limit(ROUNDS_MAX).with_time_limit(NO_CLOCK);
        let mut forms = runner.with_scheduler(SimpleScheduler).run(rules).egraph;
        forms.rebuild();
        let classes = classes.into_iter().map(|(value, id)| (value, forms.find(id))).collect();
        let own = |(class, term): (Id, Term)| (forms.find(class), term.map(|id| forms.find(id)));
        let terms = terms.into_iter().map(|(n, all): (u32, Vec<_>)| (n, all.into_iter().map(own).collect())).collect();
        Region { facts, ops, forms, classes, terms }
    }
}

impl Term {
    fn map(mut self, find: impl Fn(Id) -> Id) -> Term {
        self.operands.iter_mut().for_each(|id| *id = find(*id));
        self
    }
}

struct Maker<'a> {
    facts: &'a Facts<'a>,
    forms: Forms,
    classes: BTreeMap<ValueId, Id>,
    /// Operators of one type, by the first of those that differ in operands only.
    heads: HashMap<(&'a str, &'a str), Vec<u32>>,
}

impl<'a> Maker<'a> {
    fn typed(&mut self, value: ValueId) -> Type {
        let value = self.facts.graph.value(value);
        Type { dtype: value.dtype, shape: self.forms.analysis.lists.number(&value.shape) }
    }

    fn add(&mut self, head: Head, operands: Vec<Id>) -> (Id, Term) {
        let operands = operands.into_iter().map(|id| self.forms.find(id)).collect();
        let term = Term { head, operands };
        (self.forms.add(term.clone()), term)
    }

    fn join(&mut self, a: Id, b: Id) {
        if self.forms[a].data == self.forms[b].data {
            self.forms.union(a, b);
        }
    }

    /// A value that the region does not make.
    fn leaf(&mut self, value: ValueId) -> Id {
        let head = Head::Value(value.0);
        let typed = self.typed(value);
        self.forms.analysis.given.insert(head.clone(), typed);
        self.add(head, Vec::new()).0
    }

    fn class(&mut self, value: ValueId) -> Id {
        let same = ValueId(self.facts.same[value.0 as usize]);
        match self.classes.get(&value).or(self.classes.get(&same)) {
            Some(class) => *class,
            None => self.leaf(same),
        }
    }

    /// The number of the first operator that differs from this one in operands only.
    fn first(&mut self, n: u32) -> u32 {
        let graph = self.facts.graph;
        let op = &graph.ops[n as usize];
        let typed = |op: &'a Op| op.outputs.iter().flatten().map(|v| graph.value(*v)).collect::<Vec<_>>();
        let seen = self.heads.entry((op.domain.as_str(), op.kind.as_str())).or_default();
        let alike = |other: &'a Op| {
            let (a, b) = (typed(op), typed(other));
            let types = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.dtype == b.dtype && a.shape == b.shape);
            let absent = op.inputs.len() == other.inputs.len()
                && op.inputs.iter().zip(&other.inputs).all(|(a, b)| a.is_some() == b.is_some());
            types && absent && op.attributes == other.attributes
        };
        match seen.iter().find(|first| alike(&graph.ops[**first as usize])) {
            Some(first) => *first,
            None => {
                seen.push(n);
                n
            }
        }
    }

    /// Adds an operator; gives its terms as the file has them.
    fn op(&mut self, n: u32) -> Vec<(Id, Term)> {
        let graph = self.facts.graph;
        let op = &graph.ops[n as usize];
        let Some(form) = &self.facts.forms[n as usize] else { return Vec::new() };
        let operands: Vec<Id> = op.inputs.iter().flatten().map(|v| self.class(*v)).collect();
        let results: Vec<ValueId> = op.outputs.iter().flatten().copied().collect();
        let (Some(from), Some(result)) = (operands.first().copied(), results.first().copied()) else {
            // It has no operands: a random number, or a constant.
            return self.other(n, operands);
        };
        let typed = self.typed(result);
        let (head, operands) = match form {
            Form::Same(at) => {
                let of = op.inputs[*at].map(|v| self.class(v)).unwrap_or(from);
                self.classes.insert(result, of);
                return Vec::new();
            }
            Form::View => (Head::Reshape(typed.shape), vec![from]),
            Form::Transpose(order) => (Head::Transpose(order.clone()), vec![from]),
            Form::Slice { starts, steps } => {
                let starts = self.forms.analysis.lists.number(starts);
                (Head::Slice { starts, sizes: typed.shape, steps: steps.clone() }, vec![from])
            }
            Form::Concat(axis) => (Head::Concat(*axis), operands),
            Form::Map => {
                let head = Head::Map(self.first(n));
                self.forms.analysis.given.entry(head.clone()).or_insert(typed);
                (head, operands)
            }
            Form::Split { axis, starts } => return self.split(n, *axis, starts, from, &results),
            Form::Pick { axis, at } => {
                let all = self.other(n, operands);
                let picked = self.pick(*axis, at, op, from, typed);
                self.join(all[0].0, picked);
                return all;
            }
            Form::Other => return self.other(n, operands),
        };
        let (class, term) = self.add(head, operands);
        assert!(self.forms[class].data == typed, "a term has the type of what it stands for");
        self.classes.insert(result, class);
        vec![(class, term)]
    }

    fn other(&mut self, n: u32, operands: Vec<Id>) -> Vec<(Id, Term)> {
        let result = self.facts.graph.ops[n as usize].outputs[0].expect("it has one result");
        let head = Head::Other(self.first(n));
        let typed = self.typed(result);
        self.forms.analysis.given.insert(head.clone(), typed);
        let (class, term) = self.add(head, operands);
        self.classes.insert(result, class);
        vec![(class, term)]
    }

    /// Each part, and the slice that it is.
    fn split(&mut self, n: u32, axis: usize, starts: &[Expr], from: Id, results: &[ValueId]) -> Vec<(Id, Term)> {
        let first = self.first(n);
        let mut terms = Vec::new();
        for (part, (result, start)) in results.iter().zip(starts).enumerate() {
            let typed = self.typed(*result);
            let head = Head::Part(first, part);
            self.forms.analysis.given.insert(head.clone(), typed);
            let (class, term) = self.add(head, vec![from]);
            let rank = self.facts.graph.value(*result).shape.len();
            let zero = Expr::constant(0);
            let places: Vec<Expr> = (0..rank).map(|n| if n == axis { start.clone() } else { zero.clone() }).collect();
            let starts = self.forms.analysis.lists.number(&places);
            let head = Head::Slice { starts, sizes: typed.shape, steps: vec![1; rank] };
            let (slice, _) = self.add(head, vec![from]);
            self.join(class, slice);
            self.classes.insert(*result, class);
            terms.push((class, term));
        }
        terms
    }

    /// The elements at one place, as a slice without its axis.
    fn pick(&mut self, axis: usize, at: &Expr, op: &Op, from: Id, typed: Type) -> Id {
        let mut sizes = op.inputs[0].map_or(Vec::new(), |v| self.facts.graph.value(v).shape.clone());
        let mut starts = vec![Expr::constant(0); sizes.len()];
        (starts[axis], sizes[axis]) = (at.clone(), Expr::constant(1));
        let steps = vec![1; sizes.len()];
        let lists = &mut self.forms.analysis.lists;
        let (starts, sizes) = (lists.number(&starts), lists.number(&sizes));
        let slice = self.add(Head::Slice { starts, sizes, steps }, vec![from]).0;
        self.add(Head::Reshape(typed.shape), vec![slice]).0
    }
}
