//! Writes operators that run once more into the graph.

use crate::import::ops::row_of;
use crate::rewrite::Names;
use berth_ir::graph::{Content, Graph, Op, Value, ValueId};
use berth_ir::program::Recompute;
use std::collections::{BTreeSet, HashMap};

/// Why an operator cannot run once more for what a program says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the program has `{op}` run once more, {problem}: it was made from another model, or for other dims")]
pub struct BadRecompute {
    /// The operator.
    pub op: String,
    /// What is wrong.
    pub problem: String,
}

/// The graph with these operators run once more each, in this order.
///
/// # Errors
/// The first that names an operator which is not there, may give something else the second time, or is not read by those that
/// it is said to be read by.
pub fn put(graph: &Graph, all: &[Recompute]) -> Result<Graph, BadRecompute> {
    let mut writer = Writer::new(graph);
    for one in all {
        writer.again(one)?;
    }
    Ok(writer.graph())
}

/// Operator types that give something else each time, or compute what no other task may.
const NOT_AGAIN: [&str; 11] = [
    "Bernoulli",
    "Dropout",
    "If",
    "Loop",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Scan",
    "SequenceMap",
];

/// Whether an operator gives the same each time, one result.
pub(super) fn is_repeatable(op: &Op) -> bool {
    let known = row_of(&op.domain, &op.kind).is_some_and(|row| !row.view);
    known
        && !NOT_AGAIN.contains(&op.kind.as_str())
        && op.captures.is_empty()
        && op.outputs.iter().flatten().count() == 1
}

/// A graph to which operators are added.
pub(super) struct Writer<'a> {
    graph: &'a Graph,
    values: Vec<Value>,
    ops: Vec<Op>,
    value_names: Names,
    op_names: Names,
}

impl<'a> Writer<'a> {
    pub fn new(graph: &'a Graph) -> Writer<'a> {
        let (mut value_names, mut op_names) = (Names::default(), Names::default());
        graph.values.iter().for_each(|v| {
            value_names.take(&v.name);
        });
        graph.ops.iter().for_each(|op| {
            op_names.take(&op.name);
        });
        Writer { graph, values: graph.values.clone(), ops: graph.ops.clone(), value_names, op_names }
    }

    fn graph(self) -> Graph {
        Graph { values: self.values, ops: self.ops, ..self.graph.clone() }
    }

    /// Adds the second run of an operator, and of the views through which its readers read it; the name of the copy.
    pub fn again(&mut self, one: &Recompute) -> Result<String, BadRecompute> {
        let bad = |problem: &str| BadRecompute { op: one.op.clone(), problem: problem.to_owned() };
        let op =
            self.ops.iter().position(|op| op.name == one.op).ok_or_else(|| bad("which the model does not have"))?;
        if !is_repeatable(&self.ops[op]) {
            return Err(bad("which may give something else the second time"));
        }
        let names: BTreeSet<&str> = one.readers.iter().map(String::as_str).collect();
        let readers: Vec<usize> = (0..self.ops.len()).filter(|n| names.contains(self.ops[*n].name.as_str())).collect();
        let first = readers.first().copied().filter(|first| readers.len() == names.len() && *first > op);
        let Some(first) = first else { return Err(bad("for operators that do not all come after it")) };
        let name = self.op_names.unique(format!("{} again", self.ops[op].name));
        let mut copy = Op { name: name.clone(), ..self.ops[op].clone() };
        let made = copy.outputs.iter().flatten().next().copied().unwrap_or(ValueId(0));
        let second = self.second(made);
        copy.outputs.iter_mut().flatten().for_each(|value| *value = second);
        let mut adding =
            Adding { writer: self, before: first, seconds: HashMap::from([(made, Some(second))]), ops: vec![copy] };
        for reader in readers {
            let inputs = adding.writer.ops[reader].inputs.clone();
            let mut reads = false;
            for (n, input) in inputs.into_iter().enumerate() {
                if let Some(second) = input.and_then(|value| adding.of(value)) {
                    adding.writer.ops[reader].inputs[n] = Some(second);
                    reads = true;
                }
            }
            if !reads {
                return Err(bad(&format!(
                    "for `{}`, which does not read what it makes",
                    adding.writer.ops[reader].name
                )));
            }
        }
        let ops = adding.ops;
        self.ops.splice(first..first, ops);
        Ok(name)
    }

    /// A value like another.
    fn second(&mut self, of: ValueId) -> ValueId {
        let value = self.values[of.0 as usize].clone();
        let name = self.value_names.unique(format!("{} again", value.name));
        self.values.push(Value { name, content: Content::Computed, ..value });
        ValueId(self.values.len() as u32 - 1)
    }
}

/// The operators that are added for one that runs once more.
struct Adding<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// Where they will stand.
    before: usize,
    /// The second of each value that has one; nothing for one that has none.
    seconds: HashMap<ValueId, Option<ValueId>>,
    ops: Vec<Op>,
}

impl Adding<'_, '_> {
    /// What stands for a value after the second run: the second result, or a view of it.
    fn of(&mut self, value: ValueId) -> Option<ValueId> {
        // Views of views, back to what is known of one, then forth again.
        let mut path = Vec::new();
        let mut at = value;
        let start = loop {
            if let Some(second) = self.seconds.get(&at) {
                break *second;
            }
            let view = self.writer.ops[..self.before].iter().rposition(|op| op.outputs.first() == Some(&Some(at)));
            let view = view.filter(|n| {
                let op = &self.writer.ops[*n];
                row_of(&op.domain, &op.kind).is_some_and(|row| row.view) && op.outputs.len() == 1
            });
            path.push((at, view));
            let source = view.and_then(|n| self.writer.ops[n].inputs.first().copied().flatten());
            let Some(source) = source else { break None };
            at = source;
        };
        let mut second = start;
        for (value, view) in path.into_iter().rev() {
            second = second.zip(view).map(|(second, view)| {
                let made = self.writer.second(value);
                let view = &self.writer.ops[view];
                let name = format!("{} again", view.name);
                let mut copy = Op { outputs: vec![Some(made)], ..view.clone() };
                copy.name = self.writer.op_names.unique(name);
                copy.inputs[0] = Some(second);
                self.ops.push(copy);
                made
            });
            self.seconds.insert(value, second);
        }
        second
    }
}
