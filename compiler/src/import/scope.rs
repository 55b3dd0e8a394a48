//! The graphs that names are looked up in, the order of their nodes, and the branches that become part of the graph
//! around them.

use super::build::{Builder, Stop};
use super::names::{self, node_name};
use super::ops::Out;
use super::{ImportError, onnx};
use berth_ir::expr::Expr;
use berth_ir::graph::{Content, Op, Value, ValueId, Work};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// One graph of the file while its nodes are read.
#[derive(Default)]
pub(super) struct Scope<'a> {
    pub ids: HashMap<&'a str, ValueId>,
    /// What the file says of values.
    pub declared: HashMap<&'a str, &'a onnx::ValueInfoProto>,
    /// Names that somebody reads.
    pub read: HashSet<&'a str>,
    /// What results are called outside, where a branch becomes part of the graph around it.
    pub shown: HashMap<&'a str, String>,
}

impl<'a> Scope<'a> {
    pub fn new(graph: &'a onnx::GraphProto) -> Scope<'a> {
        let declared = graph.value_info.iter().chain(&graph.output).map(|info| (info.name.as_str(), info)).collect();
        let mut read: HashSet<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
        for node in &graph.node {
            if names::holds_graphs(node) {
                read.extend(names::reads(node));
            } else {
                read.extend(node.input.iter().map(String::as_str));
            }
        }
        Scope { declared, read, ..Scope::default() }
    }
}

impl<'a> Builder<'a> {
    /// The value of a name, in the innermost graph that has it.
    pub(super) fn lookup(&self, name: &str) -> Option<ValueId> {
        self.scopes.iter().rev().find_map(|scope| scope.ids.get(name)).copied()
    }

    /// What a value is called in the graph: its name, unless another one has it.
    pub(super) fn value_name(&mut self, name: &'a str) -> String {
        let shown = self.scopes.last().and_then(|scope| scope.shown.get(name));
        match shown {
            Some(shown) => shown.clone(),
            // What a body computes is not kept.
            None if self.scopes.len() <= 1 || self.bodies > 0 => name.to_owned(),
            None => self.unique_value(name),
        }
    }

    /// A name for a value from inside of a node's graph.
    pub(super) fn unique_value(&mut self, name: &str) -> String {
        let graph = self.model.main_graph();
        let taken = self.value_names.get_or_insert_with(|| {
            let inputs = graph.input.iter().map(|i| &i.name);
            let initializers = graph.initializer.iter().map(|t| &t.name);
            let results = graph.node.iter().flat_map(|node| &node.output);
            inputs.chain(initializers).chain(results).map(|name| (name.clone(), 1)).collect()
        });
        super::build::unique(taken, name)
    }

    /// Adds the nodes of the innermost graph.
    pub(super) fn walk(&mut self, graph: &'a onnx::GraphProto) -> Result<(), Stop> {
        for node in self.order(&graph.node)? {
            self.node(node)?;
        }
        Ok(())
    }

    /// The nodes in an order in which each reads only what stands before: the file's, or the first such order.
    fn order(&self, nodes: &'a [onnx::NodeProto]) -> Result<Vec<&'a onnx::NodeProto>, ImportError> {
        let mut producer: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                if self.scopes.last().is_some_and(|scope| scope.ids.contains_key(output.as_str())) {
                    let what = "a node, and an input or initializer";
                    return Err(ImportError::Duplicate { name: output.clone(), what });
                }
                if producer.insert(output, index).is_some() {
                    return Err(ImportError::Duplicate { name: output.clone(), what: "two results of nodes" });
                }
            }
        }
        let mut waits = vec![0usize; nodes.len()];
        let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            for input in names::reads(node) {
                match producer.get(input) {
                    Some(from) => {
                        readers[*from].push(index);
                        waits[index] += 1;
                    }
                    None if self.lookup(input).is_some() => {}
                    None => {
                        let by = format!("{} (node `{}`)", node.op_type, node_name(node));
                        return Err(ImportError::Undefined { name: input.to_owned(), by });
                    }
                }
            }
        }
        let mut ready: BinaryHeap<Reverse<usize>> = (0..nodes.len()).filter(|i| waits[*i] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(Reverse(index)) = ready.pop() {
            order.push(&nodes[index]);
            for reader in &readers[index] {
                waits[*reader] -= 1;
                if waits[*reader] == 0 {
                    ready.push(Reverse(*reader));
                }
            }
        }
        match waits.iter().position(|w| *w > 0) {
            None => Ok(order),
            Some(stuck) => Err(cycle(nodes, &producer, &waits, stuck)),
        }
    }

    /// Makes the branch that an If always takes part of the graph around it.
    pub(super) fn inline(
        &mut self,
        node: &'a onnx::NodeProto,
        branch: &'a onnx::GraphProto,
        which: &str,
    ) -> Result<(), Stop> {
        if !branch.input.is_empty() || branch.output.len() != node.output.len() {
            let (inputs, outputs) = (branch.input.len(), branch.output.len());
            let problem =
                format!("its {which} has {inputs} inputs and {outputs} results, it has {}", node.output.len());
            return Err(self.fail(node, problem).into());
        }
        let mut scope = Scope::new(branch);
        let mut outside = Vec::with_capacity(node.output.len());
        for (inner, outer) in branch.output.iter().zip(&node.output) {
            let name = if outer.is_empty() { String::new() } else { self.value_name(outer) };
            if !outer.is_empty() {
                scope.shown.entry(&inner.name).or_insert(name.clone());
            }
            outside.push(name);
        }
        self.scopes.push(scope);
        self.initializers(branch)?;
        self.walk(branch)?;
        let found: Vec<Option<ValueId>> = branch.output.iter().map(|o| self.lookup(&o.name)).collect();
        self.scopes.pop();
        let results = branch.output.iter().zip(&node.output).zip(found).zip(outside);
        for (((inner, outer), found), name) in results.filter(|(((_, outer), _), _)| !outer.is_empty()) {
            let Some(from) = found else {
                let by = format!("the results of the {which} of node `{}`", node_name(node));
                return Err(ImportError::Undefined { name: inner.name.clone(), by }.into());
            };
            let value = self.graph.value(from);
            let out = Out::new(value.dtype, value.shape.clone());
            self.compare(node, outer, &out)?;
            let is_result = self.graph.value(from).name == name;
            let id = if is_result { from } else { self.copy(from, name) };
            let scope = self.scopes.last_mut();
            if scope.is_some_and(|scope| scope.ids.insert(outer, id).is_some()) {
                return Err(ImportError::Duplicate { name: outer.clone(), what: "two results of nodes" }.into());
            }
        }
        Ok(())
    }

    /// A value of another name with the same contents.
    pub(super) fn copy(&mut self, from: ValueId, name: String) -> ValueId {
        if !self.graph.opsets.iter().any(|(domain, _)| domain.is_empty()) {
            self.graph.opsets.push((String::new(), IDENTITY_OPSET));
        }
        let source = self.graph.value(from);
        let content = match &source.content {
            Content::Known(elements) => Content::Known(elements.clone()),
            _ => Content::Computed,
        };
        let value = Value { name: name.clone(), dtype: source.dtype, shape: source.shape.clone(), content };
        let id = self.push(value);
        let name = self.unique(&name);
        self.graph.ops.push(Op {
            name,
            domain: String::new(),
            kind: "Identity".to_owned(),
            inputs: vec![Some(from)],
            outputs: vec![Some(id)],
            captures: Vec::new(),
            attributes: Vec::new(),
            work: Work { flops: Expr::constant(0), inside_bytes: Expr::constant(0) },
        });
        id
    }
}

/// The operator set of a copy in a model that imports none of the standard domain.
const IDENTITY_OPSET: i64 = 13;

/// Follows operands that wait until a node comes up again.
fn cycle(nodes: &[onnx::NodeProto], producer: &HashMap<&str, usize>, waits: &[usize], from: usize) -> ImportError {
    let mut path = vec![from];
    let mut seen = HashSet::from([from]);
    let mut at = from;
    loop {
        let inputs = names::reads(&nodes[at]);
        let Some(next) = inputs.iter().filter_map(|i| producer.get(i)).copied().find(|i| waits[*i] > 0) else {
            break;
        };
        path.push(next);
        if !seen.insert(next) {
            break;
        }
        at = next;
    }
    let last = path.last().copied().unwrap_or(from);
    let start = path.iter().position(|i| *i == last).unwrap_or(0);
    let mut names: Vec<String> = path[start..].iter().rev().map(|i| format!("`{}`", node_name(&nodes[*i]))).collect();
    if names.len() > 8 {
        let more = names.len() - 8;
        names.truncate(8);
        names.push(format!("and {more} more"));
    }
    ImportError::Cycle(names.join(", "))
}
