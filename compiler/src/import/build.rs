//! Builds the graph: names to ids, an order, then types and shapes operator by operator.

use super::floats::{self, Float};
use super::limits::FLOATS_MAX;
use super::limits::{FOLDED_FREE, RANK_MAX, RELATIONS_MAX};
use super::names::{self, node_name};
use super::ops::{Flops, Node, Out, Problem, Row, row_of, show};
use super::scope::Scope;
use super::{ImportError, Model, Port, dtype_from_onnx, is_standard, onnx, tensor};
use berth_ir::DType;
use berth_ir::expr::{Binding, Expr};
use berth_ir::graph::{Attribute, Content, Graph, Op, Value, ValueId, Work};
use bytes::Bytes;
use onnx::tensor_shape_proto::dimension::Value as Dim;
use onnx::type_proto::Value as Kind;
use prost::Message;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Reads an input or output declaration.
pub(super) fn port(info: &onnx::ValueInfoProto, input: bool) -> Result<Port, ImportError> {
    let name = info.name.clone();
    let fail = |problem: String| ImportError::Type { name: name.clone(), problem };
    let kind = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    let tensor = match kind {
        Some(Kind::TensorType(tensor)) => tensor,
        None if !input => return Ok(Port { name, dtype: None, shape: None }),
        None => return Err(fail("no type is given".to_owned())),
        Some(Kind::SequenceType(_)) => return Err(fail("sequences are not supported".to_owned())),
        Some(Kind::OptionalType(_)) => return Err(fail("optional values are not supported".to_owned())),
        Some(_) => return Err(fail("it is no tensor; only tensors are supported".to_owned())),
    };
    let dtype = dtype_from_onnx(tensor.elem_type);
    if dtype.is_none() && (input || tensor.elem_type != 0) {
        return Err(fail(format!("element type {} is not known", tensor.elem_type)));
    }
    let shape = tensor.shape.as_ref().map(|shape| {
        let dims = shape.dim.iter().enumerate();
        dims.map(|(axis, dim)| match &dim.value {
            Some(Dim::DimValue(size)) if *size >= 0 => Expr::constant(*size),
            Some(Dim::DimParam(text)) if !text.is_empty() => dim_expr(text),
            _ => Expr::dim(&format!("{name}:{axis}")),
        })
        .collect::<Vec<_>>()
    });
    if shape.as_ref().is_some_and(|s| s.len() > RANK_MAX) {
        return Err(fail(format!("it has more than {RANK_MAX} axes")));
    }
    if input && shape.is_none() {
        return Err(fail("an input needs a shape; give the model's input one (names may stand for sizes)".to_owned()));
    }
    Ok(Port { name, dtype, shape })
}

/// A dim as exporters write it: a name or an expression; what cannot be read is one opaque name.
fn dim_expr(text: &str) -> Expr {
    // A bare hyphen or slash belongs to a name (`batch-size`), a spaced one is an operator.
    let expression = text.contains(['+', '*', '(']) || text.contains(" - ") || text.contains("//");
    match text.parse::<Expr>() {
        Ok(expr) if expression && !expr.is_overflow() => expr,
        _ => Expr::dim(text),
    }
}

/// Builds the graph.
pub(super) fn graph(model: &Model, binding: &Binding, set: &BTreeMap<String, Vec<i64>>) -> Result<Graph, ImportError> {
    if let Some(name) = set.keys().find(|name| !model.inputs.iter().any(|port| port.name == **name)) {
        let inputs: Vec<&str> = model.inputs.iter().map(|port| port.name.as_str()).collect();
        let problem = format!("the model has no such input; it has {}", inputs.join(", "));
        return Err(ImportError::Set { name: name.clone(), problem });
    }
    let dims: Vec<String> = model.input_dims().into_iter().map(|d| d.name).collect();
    let named: HashSet<&String> = dims.iter().collect();
    let is_axis = |name: &str| {
        let Some((input, axis)) = name.rsplit_once(':') else { return false };
        let port = model.inputs.iter().find(|port| port.name == input);
        let axes = port.and_then(|port| port.shape.as_ref()).map_or(0, Vec::len);
        axis.parse::<usize>().is_ok_and(|axis| axis < axes)
    };
    if let Some(name) = binding.keys().find(|name| !named.contains(name) && !is_axis(name)) {
        let known = if dims.is_empty() { "none".to_owned() } else { dims.join(", ") };
        return Err(ImportError::NoSuchDim { name: name.clone(), known });
    }
    let mut relations = relations_by_name(&dims, binding)?;
    if !binding.is_empty() && dims.iter().any(|d| !binding.contains_key(d) && !relations.contains_key(d)) {
        // Once sizes are numbers an operator no longer says which dim they came from, so relations are sought before.
        let mut symbolic = relations_by_name(&dims, &Binding::new())?;
        // What goes wrong here goes wrong below too, or does not matter.
        let _ = solve(model, &dims, &Binding::new(), set, &mut symbolic);
        for (dim, equals) in symbolic {
            if !binding.contains_key(&dim) {
                relations.entry(dim).or_insert(equals.bind(binding));
            }
        }
    }
    let graph = solve(model, &dims, binding, set, &mut relations)?;
    let open = graph
        .inputs
        .iter()
        .map(|id| graph.value(*id))
        .find(|input| set.contains_key(&input.name) && !matches!(input.content, Content::Known(_)));
    match open {
        None => Ok(graph),
        Some(input) => {
            let problem = format!("its shape {} is not known; bind its dims with `--dim`", show(&input.shape));
            Err(ImportError::Set { name: input.name.clone(), problem })
        }
    }
}

/// Builds the graph, adding each relation between dims that an operator proves and starting over.
fn solve(
    model: &Model,
    dims: &[String],
    binding: &Binding,
    set: &BTreeMap<String, Vec<i64>>,
    relations: &mut BTreeMap<String, Expr>,
) -> Result<Graph, ImportError> {
    for round in 0..=RELATIONS_MAX {
        // In the last round sizes are taken as equal, and the graph says so.
        let solvable = |d: &&String| round < RELATIONS_MAX && !binding.contains_key(*d) && !relations.contains_key(*d);
        let free = dims.iter().filter(solvable).cloned().collect();
        match Builder::new(model, binding, set, relations, free).build() {
            Ok(graph) => return Ok(graph),
            Err(Stop::Error(error) | Stop::Unknown(error) | Stop::Mismatch(error)) => return Err(error),
            Err(Stop::Relation(dim, equals)) => {
                for other in relations.values_mut() {
                    *other = other.substitute(&|name| (name == dim).then(|| equals.clone()));
                }
                relations.insert(dim, equals);
            }
        }
    }
    unreachable!("the last round has no dim to solve")
}

/// Exporters name the length of a mask after its parts: `past_plus_seq` is `past + seq`. No operator need say so.
fn relations_by_name(dims: &[String], binding: &Binding) -> Result<BTreeMap<String, Expr>, ImportError> {
    let mut relations = BTreeMap::new();
    let all: HashSet<&str> = dims.iter().map(String::as_str).collect();
    for name in dims {
        let parts: Vec<&str> = name.split("_plus_").collect();
        if parts.len() < 2 || !parts.iter().all(|part| all.contains(part)) {
            continue;
        }
        let sum = parts.iter().fold(Expr::constant(0), |sum, part| sum + Expr::dim(part));
        let equals = sum.bind(binding);
        match (binding.get(name), equals.as_constant()) {
            (Some(bound), Some(needed)) if i128::from(*bound) != needed => {
                let needed = format!("{needed}: by its name it is {sum}");
                return Err(ImportError::Contradiction { name: name.clone(), bound: *bound, needed });
            }
            // One of its parts is what is left of it.
            (Some(bound), None) => {
                let apart = Expr::constant(*bound) - equals;
                let Some((part, left)) = apart.isolate().into_iter().next() else { continue };
                if left.as_constant().is_some_and(|left| left < 0) {
                    let needed = format!("more than that: by its name it is {sum}");
                    return Err(ImportError::Contradiction { name: name.clone(), bound: *bound, needed });
                }
                relations.entry(part).or_insert(left);
            }
            (Some(_), Some(_)) => {}
            (None, _) => {
                relations.insert(name.clone(), equals);
            }
        }
    }
    Ok(relations)
}

/// Why building ends early.
pub(super) enum Stop {
    /// The model is wrong.
    Error(ImportError),
    /// A shape cannot be worked out and is not declared; inside of a body, the shapes of its results may be.
    Unknown(ImportError),
    /// Sizes contradict each other; a branch in which they do is not taken.
    Mismatch(ImportError),
    /// An operator needs this dim to be that expression; the graph is built again with it.
    Relation(String, Expr),
}

impl From<ImportError> for Stop {
    fn from(error: ImportError) -> Stop {
        Stop::Error(error)
    }
}

pub(super) struct Builder<'a> {
    pub(super) model: &'a Model,
    binding: &'a Binding,
    set: &'a BTreeMap<String, Vec<i64>>,
    relations: &'a BTreeMap<String, Expr>,
    free: Vec<String>,
    pub(super) graph: Graph,
    /// The graphs that are being read, the main one first.
    pub(super) scopes: Vec<Scope<'a>>,
    /// How many bodies of opaque operators are being read; their values are dropped after.
    pub(super) bodies: usize,
    /// Initializers and constants of bodies that became values of the graph around, by their address in the file.
    pub(super) hoisted: HashMap<usize, ValueId>,
    /// Bytes of small constants of floats (scales of a Resize).
    pub(super) data: HashMap<ValueId, Bytes>,
    /// Elements of small floats that were computed from known ones.
    pub(super) floats: HashMap<ValueId, Vec<Float>>,
    /// Names of operators taken, each with the number to try next.
    names: HashMap<String, u64>,
    /// Names of values taken, once some come from inside of a node.
    pub(super) value_names: Option<HashMap<String, u64>>,
    /// Elements that may still be folded.
    folds_left: usize,
}

impl<'a> Builder<'a> {
    fn new(
        model: &'a Model,
        binding: &'a Binding,
        set: &'a BTreeMap<String, Vec<i64>>,
        relations: &'a BTreeMap<String, Expr>,
        free: Vec<String>,
    ) -> Self {
        let opsets = model.proto.opset_import.iter().map(|s| (s.domain.as_str(), s.version));
        let called = model.inlined.iter().flat_map(|i| &i.opsets).map(|(domain, version)| (domain.as_str(), *version));
        let graph = Graph {
            name: model.main_graph().name.clone(),
            opsets: opsets
                .chain(called)
                .map(|(domain, version)| (if is_standard(domain) { "" } else { domain }.to_owned(), version))
                .collect(),
            ir_version: model.proto.ir_version,
            ..Graph::default()
        };
        Builder {
            model,
            binding,
            set,
            relations,
            free,
            graph,
            scopes: vec![Scope::new(model.main_graph())],
            bodies: 0,
            hoisted: HashMap::new(),
            data: HashMap::new(),
            floats: HashMap::new(),
            names: HashMap::new(),
            value_names: None,
            folds_left: FOLDED_FREE + model.file.len() / 16,
        }
    }

    fn build(mut self) -> Result<Graph, Stop> {
        for (dim, equals) in self.relations {
            self.graph.assumptions.push(format!("dim `{dim}` is {equals}, as its name or the operators say"));
        }
        self.graph.relations = self.relations.clone();
        self.graph.assumptions.extend(self.model.assumed.iter().cloned());
        let graph = self.model.main_graph();
        self.inputs()?;
        self.initializers(graph)?;
        self.walk(graph)?;
        let mut listed = HashSet::new();
        let computed: HashSet<ValueId> =
            self.graph.ops.iter().flat_map(|op| op.outputs.iter().flatten().copied()).collect();
        for output in &graph.output {
            match self.lookup(&output.name) {
                Some(_) if !listed.insert(output.name.as_str()) => {
                    self.graph.assumptions.push(format!("output `{}` is listed twice and given once", output.name));
                }
                Some(id) => {
                    // One that no operator computes is a copy of what it names.
                    let id = if computed.contains(&id) { id } else { self.copy(id, output.name.clone()) };
                    self.graph.outputs.push(id);
                }
                None => {
                    let by = "the graph's outputs".to_owned();
                    return Err(ImportError::Undefined { name: output.name.clone(), by }.into());
                }
            }
        }
        self.note_loose_names();
        Ok(self.graph)
    }

    /// People name the dims of outputs loosely (`past` for what is `past + 1`), so a name that does not hold is no error.
    fn note_loose_names(&mut self) {
        for port in &self.model.outputs {
            let (Some(shape), Some(id)) = (&port.shape, self.lookup(&port.name)) else { continue };
            let declared: Vec<Expr> = shape.iter().map(|size| self.settle(size)).collect();
            let inferred = &self.graph.value(id).shape;
            let differ = |(a, b): (&Expr, &Expr)| a.as_constant().zip(b.as_constant()).is_some_and(|(a, b)| a != b);
            if declared.iter().zip(inferred).any(differ) {
                let (name, declared, inferred) = (&port.name, show(shape), show(inferred));
                let note =
                    format!("output `{name}` is declared as {declared} and computed as {inferred}; the latter is used");
                self.graph.assumptions.push(note);
            }
        }
    }

    /// A value that no name stands for yet.
    pub(super) fn push(&mut self, value: Value) -> ValueId {
        let id = ValueId(u32::try_from(self.graph.values.len()).unwrap_or(u32::MAX));
        self.graph.values.push(value);
        id
    }

    /// Lets a name of the innermost graph stand for a value.
    pub(super) fn bind(&mut self, name: &'a str, id: ValueId, what: &'static str) -> Result<(), ImportError> {
        match self.scopes.last_mut().and_then(|scope| scope.ids.insert(name, id)) {
            Some(_) => Err(ImportError::Duplicate { name: name.to_owned(), what }),
            None => Ok(()),
        }
    }

    fn add(&mut self, name: &'a str, what: &'static str, value: Value) -> Result<ValueId, ImportError> {
        let id = self.push(value);
        self.bind(name, id, what)?;
        Ok(id)
    }

    pub(super) fn settle(&self, expr: &Expr) -> Expr {
        if expr.as_constant().is_some() {
            return expr.clone();
        }
        expr.substitute(&|name| match self.binding.get(name) {
            Some(size) => Some(Expr::constant(*size)),
            None => self.relations.get(name).cloned(),
        })
    }

    fn inputs(&mut self) -> Result<(), ImportError> {
        let model = self.model;
        for port in &model.inputs {
            // A name may be bound for one axis alone: files give axes of unlike sizes one name (`attention_mask:1`).
            let own = |axis: usize| self.binding.get(&format!("{}:{axis}", port.name)).map(|n| Expr::constant(*n));
            let shape = port.shape.iter().flatten().enumerate();
            let shape = shape.map(|(axis, e)| own(axis).unwrap_or_else(|| self.settle(e))).collect();
            // `port` gives each input a type.
            let dtype = port.dtype.unwrap_or(DType::F32);
            let mut value = Value { name: port.name.clone(), dtype, shape, content: Content::Computed };
            if let Some(elements) = self.set.get(&port.name)
                && let Some(needed) = value.elements().as_constant()
            {
                value.content = Content::Known(set(&value, elements, needed)?);
            }
            let id = self.add(&port.name, "two graph inputs", value)?;
            self.graph.inputs.push(id);
        }
        Ok(())
    }

    pub(super) fn initializers(&mut self, graph: &'a onnx::GraphProto) -> Result<(), ImportError> {
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or(String::new(), |t| t.name.clone());
            return Err(ImportError::Unsupported { what: format!("the sparse initializer `{name}`") });
        }
        for proto in &graph.initializer {
            if let Some(id) = self.hoisted.get(&std::ptr::from_ref(proto).addr()) {
                self.bind(&proto.name, *id, "two initializers")?;
                continue;
            }
            let name = if self.is_inlined() { self.unique_value(&proto.name) } else { proto.name.clone() };
            let id = self.constant(name, proto)?;
            self.bind(&proto.name, id, "two initializers")?;
        }
        Ok(())
    }

    /// A constant that no name stands for yet.
    pub(super) fn constant(&mut self, name: String, proto: &onnx::TensorProto) -> Result<ValueId, ImportError> {
        let tensor = tensor::describe(proto, self.model, &mut self.folds_left)?;
        let shape = tensor.dims.iter().map(|d| Expr::constant(*d)).collect();
        let id = self.push(Value { name, dtype: tensor.dtype, shape, content: tensor.content });
        let small = |data: &Bytes| floats::width(tensor.dtype).is_some_and(|width| data.len() <= width * FLOATS_MAX);
        if let Some(data) = tensor.data.filter(small) {
            self.data.insert(id, data);
        }
        Ok(id)
    }

    /// Adds one node.
    pub(super) fn node(&mut self, node: &'a onnx::NodeProto) -> Result<(), Stop> {
        let domain = if is_standard(&node.domain) { "" } else { node.domain.as_str() };
        if self.constant_node(node, domain)? {
            return Ok(());
        }
        let name = node_name(node);
        if domain.is_empty() && names::is_no_tensor_operator(&node.op_type) {
            return Err(ImportError::sequence(node).into());
        }
        let Some((_, opset)) = self.graph.opsets.iter().find(|(d, _)| d == domain).cloned() else {
            let set = if domain.is_empty() { "the standard domain" } else { domain };
            return Err(self.fail(node, format!("its operator set, {set}, is not imported by the model")).into());
        };
        if domain.is_empty() && matches!(node.op_type.as_str(), "If" | "Loop" | "Scan") {
            return self.control(node, opset);
        }
        if let Some((attribute, _)) = names::bodies(node).next() {
            let what = format!("{} (node `{name}`), which holds a graph in its attribute `{attribute}`,", node.op_type);
            return Err(ImportError::Unsupported { what }.into());
        }
        let attributes = node.attribute.iter().map(|a| attribute(a).map_err(|p| self.fail(node, p)));
        let attributes: Vec<(String, Attribute)> = attributes.collect::<Result<_, _>>()?;
        let inputs = self.operands(node);
        let shown: Vec<String> = node.output.iter().map(|o| self.value_name(o)).collect();
        let row = row_of(domain, &node.op_type);
        if let Some(row) = row {
            self.arity(node, row)?;
        }
        let facts = Node {
            kind: &node.op_type,
            opset,
            inputs: inputs.iter().map(|id| id.map(|id| self.graph.value(id))).collect(),
            data: of_operands(&inputs, &self.data, Bytes::clone),
            computed: of_operands(&inputs, &self.floats, Vec::as_slice),
            outputs: &shown,
            attributes: &attributes,
            // What holds in a body that may not run says nothing of the model's inputs.
            free: if self.bodies > 0 { &[] } else { &self.free },
            notes: RefCell::default(),
            fresh: RefCell::default(),
        };
        let outs = match row.map(|row| row.results(&facts)) {
            Some(Ok(outs)) => outs,
            Some(Err(Problem::Relation { dim, equals })) => return Err(Stop::Relation(dim, equals)),
            Some(Err(Problem::Wrong(problem))) => return Err(self.fail(node, problem).into()),
            Some(Err(Problem::Mismatch(problem))) => return Err(Stop::Mismatch(self.mismatch(node, problem))),
            Some(Err(Problem::Bounded(problem, outs))) => self.declared_or(node, &problem, opset, &facts, outs)?,
            Some(Err(Problem::Unknown(problem))) => self.declared_outs(node, &problem, opset, &facts)?,
            None => self.declared_outs(node, "", opset, &facts)?,
        };
        let flops = match row.map(|row| row.flops) {
            None | Some(Flops::None) => Expr::constant(0),
            Some(Flops::PerOutput(n)) => {
                outs.first().map_or(Expr::default(), |o| product(&o.shape)) * Expr::constant(n)
            }
            Some(Flops::PerInput(n)) => {
                facts.inputs.first().copied().flatten().map_or(Expr::default(), Value::elements) * Expr::constant(n)
            }
            Some(Flops::Rule(rule)) => rule(&facts, &outs),
        };
        let notes = facts.notes.take();
        let fresh = facts.fresh.take();
        self.graph
            .assumptions
            .extend(notes.into_iter().map(|note| format!("{} (node `{name}`): {note}", node.op_type)));
        self.graph.data_dims.extend(fresh);
        let outputs = self.outputs(node, row, outs, shown)?;
        let name = self.unique(name);
        let kind = node.op_type.clone();
        let (work, captures) = (Work { flops, inside_bytes: Expr::constant(0) }, Vec::new());
        self.graph.ops.push(Op { name, domain: domain.to_owned(), kind, inputs, outputs, captures, attributes, work });
        Ok(())
    }

    pub(super) fn operands(&self, node: &onnx::NodeProto) -> Vec<Option<ValueId>> {
        node.input.iter().map(|name| self.lookup(name).filter(|_| !name.is_empty())).collect()
    }

    /// A Constant of tensor form becomes a constant value and no operator.
    fn constant_node(&mut self, node: &'a onnx::NodeProto, domain: &str) -> Result<bool, ImportError> {
        if node.op_type != "Constant" || !domain.is_empty() {
            return Ok(false);
        }
        if let (Some(id), [output]) = (self.hoisted.get(&std::ptr::from_ref(node).addr()), node.output.as_slice()) {
            self.bind(output, *id, "two results of nodes")?;
            return Ok(true);
        }
        let ([output], [attribute]) = (node.output.as_slice(), node.attribute.as_slice()) else {
            return Err(self.fail(node, "it needs one attribute and one result".to_owned()));
        };
        let list = |data_type: i32, dims: Vec<i64>, raw: Vec<u8>| onnx::TensorProto {
            name: output.clone(),
            data_type,
            dims,
            raw_data: raw.into(),
            ..Default::default()
        };
        let tensor = match attribute.name.as_str() {
            "value" => attribute.t.clone().map(|t| onnx::TensorProto { name: output.clone(), ..*t }),
            "value_int" => attribute.i.map(|i| list(7, Vec::new(), i.to_le_bytes().to_vec())),
            "value_float" => attribute.f.map(|f| list(1, Vec::new(), f.to_le_bytes().to_vec())),
            "value_ints" => {
                let raw = attribute.ints.iter().flat_map(|i| i.to_le_bytes()).collect();
                Some(list(7, vec![attribute.ints.len() as i64], raw))
            }
            "value_floats" => {
                let raw = attribute.floats.iter().flat_map(|f| f.to_le_bytes()).collect();
                Some(list(1, vec![attribute.floats.len() as i64], raw))
            }
            _ => None,
        };
        let Some(tensor) = tensor else {
            return Err(self.fail(node, format!("its attribute `{}` is not supported or empty", attribute.name)));
        };
        let name = if self.is_inlined() { self.unique_value(output) } else { output.clone() };
        let id = self.constant(name, &tensor)?;
        self.bind(output, id, "two results of nodes")?;
        Ok(true)
    }

    fn arity(&self, node: &onnx::NodeProto, row: &Row) -> Result<(), ImportError> {
        let given = |names: &[String]| names.iter().rposition(|n| !n.is_empty()).map_or(0, |at| at + 1);
        for (what, found, (least, most)) in
            [("operands", given(&node.input), row.inputs), ("results", given(&node.output), row.outputs)]
        {
            let most_found = found > usize::from(most) && most != u8::MAX;
            if found < usize::from(least) || most_found {
                let range = match (least, most) {
                    (a, b) if a == b => format!("{a}"),
                    (a, u8::MAX) => format!("at least {a}"),
                    (a, b) => format!("{a} to {b}"),
                };
                return Err(self.fail(node, format!("it has {found} {what}, {range} are needed")));
            }
        }
        Ok(())
    }

    /// Results from what the file declares, where no rule gives them.
    fn declared_outs(&self, node: &onnx::NodeProto, why: &str, opset: i64, facts: &Node) -> Result<Vec<Out>, Stop> {
        let mut outs = Vec::new();
        for output in &node.output {
            match self.declared(output) {
                Some(Port { dtype: Some(dtype), shape: Some(shape), .. }) => {
                    let shape: Vec<Expr> = shape.iter().map(|e| self.settle(e)).collect();
                    outs.push(Out::new(dtype, shape));
                }
                _ if output.is_empty() => outs.push(Out::new(DType::F32, [])),
                _ if why.is_empty() => {
                    let domain = if node.domain.is_empty() { "the standard domain" } else { &node.domain };
                    return Err(Stop::Unknown(ImportError::UnknownOp {
                        kind: node.op_type.clone(),
                        node: node_name(node).to_owned(),
                        set: format!("{domain}, operator set {opset}"),
                        output: output.clone(),
                    }));
                }
                _ => {
                    let problem = format!("{why}, and the model declares no shape for `{output}`");
                    let inputs = self.settable(facts);
                    let (kind, name) = (node.op_type.clone(), node_name(node).to_owned());
                    return Err(Stop::Unknown(match inputs.is_empty() {
                        true => self.fail(node, problem),
                        false => ImportError::Decided { kind, node: name, problem, inputs },
                    }));
                }
            }
        }
        let shapes: Vec<String> = outs.iter().map(|o| show(&o.shape)).collect();
        let why = if why.is_empty() { "the operator is not known" } else { why };
        facts.notes.borrow_mut().push(format!("{why}; the declared shape {} is taken", shapes.join(", ")));
        Ok(outs)
    }

    /// Results from what the file declares, in dims of inputs; else these, whose dims the data decide.
    fn declared_or(
        &self,
        node: &onnx::NodeProto,
        why: &str,
        opset: i64,
        facts: &Node,
        outs: Vec<Out>,
    ) -> Result<Vec<Out>, Stop> {
        let dims = self.model.input_dims();
        let named = |size: &Expr| size.dims().iter().all(|name| dims.iter().any(|dim| dim.name == *name));
        let declared =
            node.output.iter().filter(|output| !output.is_empty()).map(|output| self.declared(output)?.shape);
        if declared.collect::<Option<Vec<_>>>().is_none_or(|shapes| !shapes.iter().flatten().all(named)) {
            return Ok(outs);
        }
        facts.fresh.borrow_mut().clear();
        self.declared_outs(node, why, opset, facts)
    }

    /// The inputs from which an operator's integers follow; none where not all could be set.
    fn settable(&self, facts: &Node) -> Vec<String> {
        // In a body other inputs decide too, and what fails there may not matter.
        if self.bodies > 0 {
            return Vec::new();
        }
        let integer = |dtype| matches!(dtype, DType::I64 | DType::I32 | DType::Bool);
        let mut producers = HashMap::new();
        for op in &self.graph.ops {
            op.outputs.iter().flatten().for_each(|id| _ = producers.insert(*id, op));
        }
        let named: HashSet<&str> = facts.inputs.iter().flatten().map(|value| value.name.as_str()).collect();
        let ids = (0..).map(ValueId).zip(&self.graph.values);
        let mut open: Vec<ValueId> =
            ids.filter(|(_, v)| integer(v.dtype) && named.contains(v.name.as_str())).map(|(id, _)| id).collect();
        let mut seen: HashSet<ValueId> = open.iter().copied().collect();
        let mut inputs = Vec::new();
        while let Some(id) = open.pop() {
            let value = self.graph.value(id);
            match producers.get(&id) {
                _ if !matches!(value.content, Content::Computed) => {}
                Some(op) => open.extend(op.reads().filter(|id| seen.insert(*id))),
                None if integer(value.dtype) => inputs.push(value.name.clone()),
                None => return Vec::new(),
            }
        }
        inputs.sort();
        inputs
    }

    /// What the innermost graph declares of a value.
    pub(super) fn declared(&self, name: &str) -> Option<Port> {
        let info = self.scopes.last()?.declared.get(name)?;
        port(info, false).ok()
    }

    /// Adds the results of a node; `shown` is what they are called in the graph.
    pub(super) fn outputs(
        &mut self,
        node: &'a onnx::NodeProto,
        row: Option<&Row>,
        outs: Vec<Out>,
        shown: Vec<String>,
    ) -> Result<Vec<Option<ValueId>>, ImportError> {
        let needed = |index: usize, read: &HashSet<&str>| {
            let used = |i: usize| node.output.get(i).is_some_and(|o| !o.is_empty() && read.contains(o.as_str()));
            let Some(row) = row else { return true };
            let paired = row.paired && (index == 1 || index == 2) && (used(1) || used(2));
            // Training mode writes the running statistics whether or not they are read.
            let training = node.op_type == "BatchNormalization" && node.output.len() > 1;
            // A Split has a result for each of its sizes.
            let parts = node.op_type == "Split";
            index < usize::from(row.outputs.0.max(1)) || used(index) || paired || training || parts
        };
        let mut ids = Vec::with_capacity(node.output.len());
        let mut outs = outs.into_iter();
        for ((index, output), shown) in node.output.iter().enumerate().zip(shown) {
            let out = outs.next();
            if output.is_empty() || !self.scopes.last().is_some_and(|scope| needed(index, &scope.read)) {
                ids.push(None);
                continue;
            }
            let Some(out) = out else {
                return Err(self.fail(node, format!("it has no result {index} (`{output}`)")));
            };
            self.compare(node, output, &out)?;
            // Folding is worth it for shapes; a file made of nothing else shall not grow in memory.
            let known = out.known.filter(|known| known.len() <= self.folds_left);
            self.folds_left -= known.as_ref().map_or(0, Vec::len);
            let content = known.map_or(Content::Computed, Content::Known);
            let value = Value { name: shown, dtype: out.dtype, shape: out.shape, content };
            let id = self.add(output, "two results of nodes", value)?;
            if let Some(floats) = out.floats.filter(|floats| floats.len() <= self.folds_left) {
                self.folds_left -= floats.len();
                self.floats.insert(id, floats);
            }
            ids.push(Some(id));
        }
        while ids.last() == Some(&None) {
            ids.pop();
        }
        Ok(ids)
    }

    /// Compares what the file declares of a value with what was inferred.
    pub(super) fn compare(&self, node: &onnx::NodeProto, name: &str, out: &Out) -> Result<(), ImportError> {
        for (size, axis) in out.shape.iter().zip(0..) {
            let size = if size.is_overflow() { -1 } else { size.as_constant().unwrap_or(0) };
            if size < 0 || size > i128::from(u64::MAX) {
                return Err(self
                    .fail(node, format!("the shape of `{name}`, {}, is impossible at axis {axis}", show(&out.shape))));
            }
        }
        if out.shape.len() > RANK_MAX {
            return Err(
                self.fail(node, format!("`{name}` has {} axes, at most {RANK_MAX} are supported", out.shape.len()))
            );
        }
        let elements = product(&out.shape);
        let bytes = elements * Expr::constant(i128::from(out.dtype.bits().unwrap_or(0)));
        if bytes.is_overflow() || bytes.as_constant().is_some_and(|b| b / 8 > i128::from(i64::MAX)) {
            return Err(self.fail(node, format!("the size of `{name}`, {}, does not fit in 63 bits", show(&out.shape))));
        }
        let Some(info) = self.scopes.last().and_then(|scope| scope.declared.get(name)) else { return Ok(()) };
        let Some(Kind::TensorType(declared)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            return Ok(());
        };
        let conflict = |declared: String, inferred: String| ImportError::Conflict {
            value: name.to_owned(),
            op: format!("{} (node `{}`)", node.op_type, node_name(node)),
            declared,
            inferred: inferred + &self.hint(),
        };
        if let Some(dtype) = dtype_from_onnx(declared.elem_type)
            && dtype != out.dtype
        {
            return Err(conflict(format!("{dtype:?}"), format!("{:?}", out.dtype)));
        }
        let Some(shape) = &declared.shape else { return Ok(()) };
        let same = shape.dim.len() == out.shape.len()
            && shape.dim.iter().zip(&out.shape).all(|(declared, inferred)| {
                match (&declared.value, inferred.as_constant()) {
                    (Some(Dim::DimValue(size)), Some(inferred)) if *size >= 0 => i128::from(*size) == inferred,
                    _ => true,
                }
            });
        if !same {
            let dims = shape.dim.iter().map(|d| match &d.value {
                Some(Dim::DimValue(size)) => size.to_string(),
                Some(Dim::DimParam(text)) => text.clone(),
                None => "?".to_owned(),
            });
            let declared = format!("[{}]", dims.collect::<Vec<_>>().join(", "));
            return Err(conflict(declared, show(&out.shape)));
        }
        Ok(())
    }

    pub(super) fn unique(&mut self, name: &str) -> String {
        // What is in a body is not kept.
        if self.bodies > 0 { name.to_owned() } else { unique(&mut self.names, name) }
    }

    /// Whether a branch is becoming part of the graph around it.
    fn is_inlined(&self) -> bool {
        self.bodies == 0 && self.scopes.len() > 1
    }

    fn hint(&self) -> String {
        if self.binding.is_empty() {
            return String::new();
        }
        let bound: Vec<String> = self.binding.iter().map(|(name, size)| format!("{name}={size}")).collect();
        format!("; the dims are bound to {}: these sizes contradict the model or each other", bound.join(", "))
    }

    pub(super) fn fail(&self, node: &onnx::NodeProto, problem: String) -> ImportError {
        let hint = String::new();
        ImportError::Op { kind: node.op_type.clone(), node: node_name(node).to_owned(), problem, hint }
    }

    fn mismatch(&self, node: &onnx::NodeProto, problem: String) -> ImportError {
        let hint = self.hint();
        ImportError::Op { kind: node.op_type.clone(), node: node_name(node).to_owned(), problem, hint }
    }
}

/// A name that is not taken, and takes it.
pub(super) fn unique(taken: &mut HashMap<String, u64>, name: &str) -> String {
    let mut unique = name.to_owned();
    // Ends: each round takes a number that was not tried, and taken names are fewer.
    while taken.contains_key(&unique) {
        let number = taken.entry(name.to_owned()).or_insert(1);
        *number += 1;
        unique = format!("{name}#{number}");
    }
    taken.insert(unique.clone(), 1);
    unique
}

/// The elements that an input was given.
fn set(input: &Value, elements: &[i64], needed: i128) -> Result<Vec<Expr>, ImportError> {
    let fail = |problem: String| ImportError::Set { name: input.name.clone(), problem };
    let least_most = match input.dtype {
        DType::Bool => (0, 1),
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::I64 => (i64::MIN, i64::MAX),
        dtype => return Err(fail(format!("it holds {dtype:?}; only truth values and integers can be"))),
    };
    if elements.len() as i128 != needed {
        return Err(fail(format!(
            "it has {needed} elements (shape {}), {} are given",
            show(&input.shape),
            elements.len()
        )));
    }
    match elements.iter().find(|n| !(least_most.0..=least_most.1).contains(*n)) {
        Some(n) => Err(fail(format!("{n} is outside of {:?}", input.dtype))),
        None => Ok(elements.iter().map(|n| Expr::constant(*n)).collect()),
    }
}

/// What a table says of each operand; empty where the table is.
fn of_operands<'t, T, U>(
    inputs: &[Option<ValueId>],
    table: &'t HashMap<ValueId, T>,
    take: impl Fn(&'t T) -> U,
) -> Vec<Option<U>> {
    if table.is_empty() {
        return Vec::new();
    }
    inputs.iter().map(|id| id.and_then(|id| table.get(&id).map(&take))).collect()
}

fn product(shape: &[Expr]) -> Expr {
    shape.iter().fold(Expr::constant(1), |a, b| a * b)
}

/// An attribute in the IR's form.
pub(super) fn attribute(proto: &onnx::AttributeProto) -> Result<(String, Attribute), String> {
    if !proto.ref_attr_name.is_empty() {
        return Err(format!("attribute `{}` refers to a function's attribute outside of a function", proto.name));
    }
    let message = || Attribute::Message(proto.encode_to_vec().into());
    // Files older than IR version 3 give no type.
    let value = match (proto.r#type, &proto.f, &proto.i, &proto.s) {
        (1, Some(f), ..) | (0, Some(f), ..) => Attribute::Float(*f),
        (1, ..) => Attribute::Float(0.0),
        (2, _, Some(i), _) | (0, _, Some(i), _) => Attribute::Int(*i),
        (2, ..) => Attribute::Int(0),
        (3, _, _, Some(s)) | (0, _, _, Some(s)) => Attribute::String(s.clone()),
        (3, ..) => Attribute::String(Bytes::new()),
        (6, ..) => Attribute::Floats(proto.floats.clone()),
        (7, ..) => Attribute::Ints(proto.ints.clone()),
        (8, ..) => Attribute::Strings(proto.strings.clone()),
        (0, ..) if !proto.ints.is_empty() => Attribute::Ints(proto.ints.clone()),
        (0, ..) if !proto.floats.is_empty() => Attribute::Floats(proto.floats.clone()),
        (0, ..) if !proto.strings.is_empty() => Attribute::Strings(proto.strings.clone()),
        _ => message(),
    };
    Ok((proto.name.clone(), value))
}
