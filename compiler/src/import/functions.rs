//! Inlines local functions.
//!
//! Reads:    the model file's functions and every graph in it.
//! Decides:  names of what stands inside a call: the call's name, a slash, the name inside.
//! Promises: a graph of the same meaning without calls, of at most [`CALL_NODES_MAX`] more nodes; or a refusal, before
//!           anything is copied, of functions that call themselves or grow past that.
//! Why:      what a plan orders are operators; a call would hide them and their memory.

use super::limits::{CALL_BYTES_MAX, CALL_DEPTH_MAX, CALL_NODES_MAX, CALL_PREFIX_MAX};
use super::names::{bodies, node_name};
use super::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};
use super::{ImportError, is_standard};
use std::collections::{HashMap, HashSet};

/// A model's graph without calls.
#[derive(Clone, Debug)]
pub(super) struct Inlined {
    pub graph: GraphProto,
    /// Operator sets that only functions import.
    pub opsets: Vec<(String, i64)>,
}

/// Domain, name, overload.
type Key<'a> = (&'a str, &'a str, &'a str);

fn domain(name: &str) -> &str {
    if is_standard(name) { "" } else { name }
}

fn callee(node: &NodeProto) -> Key<'_> {
    (domain(&node.domain), &node.op_type, &node.overload)
}

/// The model's graph with every call inlined; nothing where the file has no functions.
pub(super) fn inline(model: &ModelProto) -> Result<Option<Inlined>, ImportError> {
    let Some(graph) = model.graph.as_ref().filter(|_| !model.functions.is_empty()) else { return Ok(None) };
    let mut functions = HashMap::new();
    for function in &model.functions {
        let key = (domain(&function.domain), function.name.as_str(), function.overload.as_str());
        if functions.insert(key, function).is_some() {
            return Err(ImportError::Duplicate { name: function.name.clone(), what: "two local functions" });
        }
    }
    let mut sizes = Sizes { functions: &functions, done: HashMap::new(), chain: Vec::new() };
    let total = sizes.nodes(&graph.node, 0)?;
    if total.calls == 0 {
        return Ok(None);
    }
    let opsets = opsets(model, sizes.done.keys().filter_map(|key| functions.get(key)).copied())?;
    let mut taken = HashSet::new();
    names_in(&graph.node, &mut taken);
    taken.extend(graph.input.iter().chain(&graph.output).map(|v| v.name.clone()));
    taken.extend(graph.initializer.iter().map(|t| t.name.clone()));
    let mut inliner = Inliner { functions: &functions, taken, numbers: HashMap::new(), calls: Vec::new(), bytes: 0 };
    let mut node = Vec::new();
    inliner.nodes(&graph.node, &mut node)?;
    let graph = GraphProto { node, ..without_nodes(graph) };
    Ok(Some(Inlined { graph, opsets }))
}

fn without_nodes(graph: &GraphProto) -> GraphProto {
    GraphProto {
        node: Vec::new(),
        name: graph.name.clone(),
        initializer: graph.initializer.clone(),
        input: graph.input.clone(),
        output: graph.output.clone(),
        value_info: graph.value_info.clone(),
        sparse_initializer: graph.sparse_initializer.clone(),
    }
}

/// All names of values in these nodes and the graphs that they hold.
fn names_in(nodes: &[NodeProto], names: &mut HashSet<String>) {
    for node in nodes {
        names.extend(node.input.iter().chain(&node.output).cloned());
        for (_, body) in bodies(node) {
            names.extend(body.input.iter().map(|v| v.name.clone()));
            names.extend(body.initializer.iter().map(|t| t.name.clone()));
            names_in(&body.node, names);
        }
    }
}

/// Operator sets that the called functions import and the model does not. Where both import one, it must be the same:
/// which operators changed between two versions is not known here.
fn opsets<'a>(
    model: &ModelProto,
    called: impl Iterator<Item = &'a FunctionProto>,
) -> Result<Vec<(String, i64)>, ImportError> {
    let mut versions: HashMap<&str, i64> =
        model.opset_import.iter().map(|set| (domain(&set.domain), set.version)).collect();
    let mut called: Vec<&FunctionProto> = called.collect();
    called.sort_by_key(|f| (&f.domain, &f.name, &f.overload));
    let mut added = Vec::new();
    for function in called {
        for set in &function.opset_import {
            let name = domain(&set.domain);
            match versions.get(name) {
                Some(version) if *version == set.version => {}
                Some(version) => {
                    let which = if name.is_empty() { "the standard domain" } else { name };
                    return Err(failed(
                        &function.name,
                        format!(
                            "it is written for operator set {} of {which}, the model for {version}; \
                             inline functions when exporting, or convert both to one version",
                            set.version
                        ),
                    ));
                }
                None => {
                    if name.is_empty() && !(1..=super::OPSET_MAX).contains(&set.version) {
                        return Err(ImportError::Opset { found: set.version, newest: super::OPSET_MAX });
                    }
                    versions.insert(name, set.version);
                    added.push((name.to_owned(), set.version));
                }
            }
        }
    }
    Ok(added)
}

fn failed(name: &str, problem: String) -> ImportError {
    ImportError::Function { name: name.to_owned(), problem }
}

/// What nodes become once their calls are inlined.
#[derive(Clone, Copy, Default)]
struct Size {
    calls: u64,
    nodes: u64,
    bytes: u64,
    /// Of graphs in nodes.
    depth: usize,
}

/// Works out sizes before anything is copied.
struct Sizes<'a> {
    functions: &'a HashMap<Key<'a>, &'a FunctionProto>,
    done: HashMap<Key<'a>, Size>,
    chain: Vec<Key<'a>>,
}

impl<'a> Sizes<'a> {
    fn nodes(&mut self, nodes: &'a [NodeProto], depth: usize) -> Result<Size, ImportError> {
        let mut size = Size { depth, ..Size::default() };
        for node in nodes {
            if depth > CALL_DEPTH_MAX {
                return Err(failed(
                    node_name(node),
                    format!("it stands in graphs nested more than {CALL_DEPTH_MAX} deep"),
                ));
            }
            let key = callee(node);
            let one = match self.functions.get(&key) {
                Some(function) => {
                    let body = self.function(key, function, depth)?;
                    Size { calls: body.calls.saturating_add(1), depth: depth + body.depth, ..body }
                }
                None => {
                    let mut own = Size { nodes: 1, bytes: bytes(node), depth, calls: 0 };
                    for (_, body) in bodies(node) {
                        let inner = self.nodes(&body.node, depth + 1)?;
                        own.nodes = own.nodes.saturating_add(inner.nodes);
                        own.bytes = own.bytes.saturating_add(inner.bytes);
                        own.calls = own.calls.saturating_add(inner.calls);
                        own.depth = own.depth.max(inner.depth);
                    }
                    own
                }
            };
            size.calls = size.calls.saturating_add(one.calls);
            size.nodes = size.nodes.saturating_add(one.nodes);
            size.bytes = size.bytes.saturating_add(one.bytes);
            size.depth = size.depth.max(one.depth);
            if size.depth > CALL_DEPTH_MAX {
                return Err(failed(
                    node_name(node),
                    format!("graphs in it are nested more than {CALL_DEPTH_MAX} deep"),
                ));
            }
        }
        Ok(size)
    }

    fn function(&mut self, key: Key<'a>, function: &'a FunctionProto, depth: usize) -> Result<Size, ImportError> {
        if let Some(size) = self.done.get(&key) {
            return Ok(*size);
        }
        if let Some(at) = self.chain.iter().position(|k| *k == key) {
            let mut names: Vec<String> = self.chain[at..].iter().map(|k| format!("`{}`", k.1)).collect();
            names.push(format!("`{}`", key.1));
            return Err(failed(key.1, format!("it calls itself: {}; no plan can hold that", names.join(", then "))));
        }
        if self.chain.len() >= CALL_DEPTH_MAX {
            return Err(failed(key.1, format!("it is called {} calls deep, more than are followed", self.chain.len())));
        }
        self.chain.push(key);
        let size = self.nodes(&function.node, depth)?;
        let size = Size { depth: size.depth - depth, ..size };
        self.chain.pop();
        if size.nodes > CALL_NODES_MAX || size.bytes > CALL_BYTES_MAX {
            let (nodes, mib) = (size.nodes, size.bytes >> 20);
            let problem = format!(
                "a call of it is {nodes} operators ({mib} MiB) once inlined, at most {CALL_NODES_MAX} ({} MiB) are followed",
                CALL_BYTES_MAX >> 20
            );
            return Err(failed(key.1, problem));
        }
        self.done.insert(key, size);
        Ok(size)
    }
}

/// What a node takes when copied, in the file's form: raw data are not copied, and graphs are counted by themselves.
fn bytes(node: &NodeProto) -> u64 {
    let texts = node.input.iter().chain(&node.output).map(|name| name.len() + 24).sum::<usize>();
    let attributes = node.attribute.iter().map(|a| {
        let tensor = a.t.as_ref().map_or(0, |t| 100 + 8 * (t.dims.len() + t.int32_data.len() + t.int64_data.len()));
        let lists = 8 * (a.floats.len() + a.ints.len() + 4 * a.strings.len() + 100 * a.tensors.len());
        let initializers = a.g.iter().map(|g| 100 * g.initializer.len()).sum::<usize>();
        200 + a.name.len() + tensor + lists + initializers
    });
    (100 + texts + attributes.sum::<usize>()) as u64
}

/// Copies nodes, calls replaced by what they call.
struct Inliner<'a> {
    functions: &'a HashMap<Key<'a>, &'a FunctionProto>,
    /// Names of values that are in use.
    taken: HashSet<String>,
    /// The number to try next for a name that is taken.
    numbers: HashMap<String, u64>,
    calls: Vec<Call<'a>>,
    /// Bytes of names that were written.
    bytes: u64,
}

/// A call that is being copied.
struct Call<'a> {
    name: String,
    function: &'a str,
    /// Names inside, innermost graph last, and what they are outside.
    scopes: Vec<HashMap<&'a str, String>>,
    attributes: HashMap<&'a str, AttributeProto>,
}

impl<'a> Inliner<'a> {
    fn nodes(&mut self, nodes: &'a [NodeProto], out: &mut Vec<NodeProto>) -> Result<(), ImportError> {
        for node in nodes {
            match self.functions.get(&callee(node)) {
                Some(function) => self.call(node, function, out)?,
                None => {
                    let copy = self.node(node)?;
                    out.push(copy);
                }
            }
        }
        Ok(())
    }

    /// What a name inside of the call is outside.
    fn outside(&self, name: &'a str) -> Result<String, ImportError> {
        let Some(call) = self.calls.last().filter(|_| !name.is_empty()) else { return Ok(name.to_owned()) };
        let found = call.scopes.iter().rev().find_map(|scope| scope.get(name)).cloned();
        found.ok_or_else(|| ImportError::Undefined {
            name: name.to_owned(),
            by: format!("the local function `{}`", call.function),
        })
    }

    fn fresh(&mut self, name: &str) -> String {
        let base = match self.calls.last() {
            Some(call) => format!("{}/{name}", call.name),
            None => name.to_owned(),
        };
        let mut fresh = base.clone();
        while !self.taken.insert(fresh.clone()) {
            let number = self.numbers.entry(base.clone()).or_insert(1);
            *number += 1;
            fresh = format!("{base}#{number}");
        }
        fresh
    }

    fn define(&mut self, name: &'a str) -> String {
        let fresh = self.fresh(name);
        if let Some(scope) = self.calls.last_mut().and_then(|call| call.scopes.last_mut()) {
            scope.insert(name, fresh.clone());
        }
        fresh
    }

    /// Names the results of a graph's nodes ahead: nodes need not stand in order.
    fn define_results(&mut self, nodes: &'a [NodeProto]) -> Result<(), ImportError> {
        if self.calls.is_empty() {
            return Ok(());
        }
        for name in nodes.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
            let known = self.calls.last().and_then(|c| c.scopes.last()).is_some_and(|s| s.contains_key(name.as_str()));
            // The function's own results have their names; a second definition of one is found when the graph is built.
            if !known {
                self.define(name);
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &'a NodeProto) -> Result<NodeProto, ImportError> {
        let input: Vec<String> = node.input.iter().map(|name| self.outside(name)).collect::<Result<_, _>>()?;
        let output: Vec<String> = node.output.iter().map(|name| self.outside(name)).collect::<Result<_, _>>()?;
        if let Some(call) = self.calls.last() {
            // Names outside may be longer than those inside, which the sizes were taken of.
            self.bytes += input.iter().chain(&output).map(|name| name.len() as u64).sum::<u64>();
            if self.bytes > CALL_BYTES_MAX {
                let problem = format!("names in its calls take more than {} MiB once inlined", CALL_BYTES_MAX >> 20);
                return Err(failed(call.function, problem));
            }
        }
        let mut attribute = Vec::with_capacity(node.attribute.len());
        for a in &node.attribute {
            attribute.extend(self.attribute(a)?);
        }
        let name = match self.calls.last() {
            Some(call) if !node.name.is_empty() => format!("{}/{}", call.name, node.name),
            _ => node.name.clone(),
        };
        let (op_type, domain, overload) = (node.op_type.clone(), node.domain.clone(), node.overload.clone());
        Ok(NodeProto { input, output, name, op_type, attribute, domain, overload })
    }

    /// An attribute with its graphs copied; a reference to one of the function's becomes that, or nothing.
    fn attribute(&mut self, attribute: &'a AttributeProto) -> Result<Option<AttributeProto>, ImportError> {
        if let Some(call) = self.calls.last().filter(|_| !attribute.ref_attr_name.is_empty()) {
            let given = call.attributes.get(attribute.ref_attr_name.as_str());
            return Ok(given.map(|given| AttributeProto { name: attribute.name.clone(), ..given.clone() }));
        }
        if attribute.g.is_none() && attribute.graphs.is_empty() {
            return Ok(Some(attribute.clone()));
        }
        let g = attribute.g.as_ref().map(|g| self.graph(g).map(Box::new)).transpose()?;
        let graphs = attribute.graphs.iter().map(|g| self.graph(g)).collect::<Result<_, _>>()?;
        let (name, r#type) = (attribute.name.clone(), attribute.r#type);
        Ok(Some(AttributeProto { name, r#type, g, graphs, ..Default::default() }))
    }

    fn graph(&mut self, graph: &'a GraphProto) -> Result<GraphProto, ImportError> {
        if self.calls.is_empty() {
            let mut node = Vec::with_capacity(graph.node.len());
            self.nodes(&graph.node, &mut node)?;
            return Ok(GraphProto { node, ..without_nodes(graph) });
        }
        if let Some(call) = self.calls.last_mut() {
            call.scopes.push(HashMap::new());
        }
        let mut copy = without_nodes(graph);
        copy.value_info.clear();
        for (info, from) in copy.input.iter_mut().zip(&graph.input) {
            info.name = self.define(&from.name);
        }
        for (tensor, from) in copy.initializer.iter_mut().zip(&graph.initializer) {
            tensor.name = self.define(&from.name);
        }
        self.define_results(&graph.node)?;
        self.nodes(&graph.node, &mut copy.node)?;
        for (info, from) in copy.output.iter_mut().zip(&graph.output) {
            info.name = self.outside(&from.name)?;
        }
        if let Some(call) = self.calls.last_mut() {
            call.scopes.pop();
        }
        Ok(copy)
    }

    fn call(
        &mut self,
        node: &'a NodeProto,
        function: &'a FunctionProto,
        out: &mut Vec<NodeProto>,
    ) -> Result<(), ImportError> {
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            let problem = format!(
                "node `{}` calls it with {} operands and {} results, it has {} and {}",
                node_name(node),
                node.input.len(),
                node.output.len(),
                function.input.len(),
                function.output.len()
            );
            return Err(failed(&function.name, problem));
        }
        let mut attributes = HashMap::new();
        for default in &function.attribute_proto {
            attributes.insert(default.name.as_str(), default.clone());
        }
        for a in &node.attribute {
            // The caller's reference to an attribute that it was not given leaves this one at its default.
            if let Some(given) = self.attribute(a)? {
                attributes.insert(a.name.as_str(), given);
            }
        }
        let mut scope = HashMap::new();
        for (index, formal) in function.input.iter().enumerate() {
            let actual = node.input.get(index).map_or(Ok(String::new()), |name| self.outside(name))?;
            if scope.insert(formal.as_str(), actual).is_some() {
                return Err(failed(&function.name, format!("it has two operands `{formal}`")));
            }
        }
        // A result that is an operand, or listed twice, is a copy.
        let mut copies = Vec::new();
        for (formal, actual) in function.output.iter().zip(&node.output).filter(|(_, actual)| !actual.is_empty()) {
            let actual = self.outside(actual)?;
            match scope.get(formal.as_str()) {
                Some(from) => copies.push((from.clone(), actual)),
                None => {
                    scope.insert(formal, actual);
                }
            }
        }
        let mut own = match self.calls.last() {
            Some(call) => format!("{}/{}", call.name, node_name(node)),
            None => node_name(node).to_owned(),
        };
        own.truncate(own.floor_char_boundary(CALL_PREFIX_MAX));
        self.calls.push(Call { name: own, function: &function.name, scopes: vec![scope], attributes });
        self.define_results(&function.node)?;
        for formal in &function.output {
            self.outside(formal)?;
        }
        self.nodes(&function.node, out)?;
        self.calls.pop();
        for (from, to) in copies {
            let (input, output, op_type) = (vec![from], vec![to], "Identity".to_owned());
            out.push(NodeProto { input, output, op_type, ..Default::default() });
        }
        Ok(())
    }
}
