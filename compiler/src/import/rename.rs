//! Gives the names in an operator's graphs a canonical form, and puts other names for those from outside.

use super::build::Builder;
use super::{ImportError, is_standard, onnx};
use berth_ir::graph::ValueId;
use onnx::tensor_shape_proto::dimension::Value as Dim;
use onnx::type_proto::Value as Kind;
use std::collections::{BTreeSet, HashMap};

/// What a name in a graph is.
#[derive(Clone)]
enum Named {
    /// Defined inside, under this name.
    Inside(String),
    /// A constant that became a value of the graph around.
    Hoisted(ValueId),
}

/// Copies graphs: `b0, b1, ..` for what is defined inside, `x0, x1, ..` for what comes from outside, no other text that
/// could make equal graphs differ.
pub(super) struct Canon<'a, 'b> {
    builder: &'b Builder<'a>,
    /// Names in the graphs around, innermost last.
    scopes: Vec<HashMap<&'a str, Named>>,
    defined: usize,
    /// What comes from outside, in the order of first use.
    pub captures: Vec<(String, ValueId)>,
    captured: HashMap<ValueId, String>,
}

impl<'a, 'b> Canon<'a, 'b> {
    pub fn new(builder: &'b Builder<'a>) -> Canon<'a, 'b> {
        Canon { builder, scopes: Vec::new(), defined: 0, captures: Vec::new(), captured: HashMap::new() }
    }

    fn capture(&mut self, id: ValueId) -> String {
        let next = self.captures.len();
        let captures = &mut self.captures;
        let name = self.captured.entry(id).or_insert_with(|| {
            captures.push((format!("x{next}"), id));
            format!("x{next}")
        });
        name.clone()
    }

    fn define(&mut self, name: &'a str) -> String {
        if name.is_empty() {
            return String::new();
        }
        let fresh = format!("b{}", self.defined);
        self.defined += 1;
        self.put(name, Named::Inside(fresh.clone()));
        fresh
    }

    fn put(&mut self, name: &'a str, is: Named) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, is);
        }
    }

    fn read(&mut self, name: &'a str) -> Result<String, ImportError> {
        if name.is_empty() {
            return Ok(String::new());
        }
        match self.scopes.iter().rev().find_map(|scope| scope.get(name)).cloned() {
            Some(Named::Inside(name)) => return Ok(name),
            Some(Named::Hoisted(id)) => return Ok(self.capture(id)),
            None => {}
        }
        match self.builder.lookup(name) {
            Some(id) => Ok(self.capture(id)),
            None => {
                Err(ImportError::Undefined { name: name.to_owned(), by: "a graph in a node's attribute".to_owned() })
            }
        }
    }

    pub fn attribute(&mut self, from: &'a onnx::AttributeProto) -> Result<onnx::AttributeProto, ImportError> {
        let g = from.g.as_ref().map(|g| self.graph(g).map(Box::new)).transpose()?;
        let graphs = from.graphs.iter().map(|g| self.graph(g)).collect::<Result<_, _>>()?;
        let mut to = onnx::AttributeProto {
            name: from.name.clone(),
            f: from.f,
            i: from.i,
            s: from.s.clone(),
            t: from.t.clone(),
            g,
            floats: from.floats.clone(),
            ints: from.ints.clone(),
            strings: from.strings.clone(),
            tensors: from.tensors.clone(),
            graphs,
            tp: from.tp.clone(),
            type_protos: from.type_protos.clone(),
            r#type: from.r#type,
            ref_attr_name: from.ref_attr_name.clone(),
            sparse_tensor: from.sparse_tensor.clone(),
            sparse_tensors: from.sparse_tensors.clone(),
        };
        if let Some(tensor) = &mut to.t {
            tensor.name.clear();
        }
        Ok(to)
    }

    fn graph(&mut self, from: &'a onnx::GraphProto) -> Result<onnx::GraphProto, ImportError> {
        self.scopes.push(HashMap::new());
        let mut to = onnx::GraphProto { name: "body".to_owned(), ..Default::default() };
        for info in &from.input {
            let name = self.define(&info.name);
            to.input.push(onnx::ValueInfoProto { name, r#type: declared(info, true) });
        }
        let hoisted = &self.builder.hoisted;
        for tensor in &from.initializer {
            match hoisted.get(&std::ptr::from_ref(tensor).addr()) {
                Some(id) => self.put(&tensor.name, Named::Hoisted(*id)),
                None => {
                    let name = self.define(&tensor.name);
                    to.initializer.push(onnx::TensorProto { name, ..tensor.clone() });
                }
            }
        }
        for node in &from.node {
            let id = hoisted.get(&std::ptr::from_ref(node).addr());
            for name in &node.output {
                match id {
                    Some(id) => self.put(name, Named::Hoisted(*id)),
                    None => {
                        self.define(name);
                    }
                }
            }
        }
        for node in from.node.iter().filter(|n| !hoisted.contains_key(&std::ptr::from_ref(*n).addr())) {
            to.node.push(self.node(node)?);
        }
        self.outputs(from, &mut to)?;
        self.scopes.pop();
        Ok(to)
    }

    fn node(&mut self, from: &'a onnx::NodeProto) -> Result<onnx::NodeProto, ImportError> {
        Ok(onnx::NodeProto {
            input: from.input.iter().map(|name| self.read(name)).collect::<Result<_, _>>()?,
            output: from.output.iter().map(|name| self.read(name)).collect::<Result<_, _>>()?,
            name: String::new(),
            op_type: from.op_type.clone(),
            attribute: from.attribute.iter().map(|a| self.attribute(a)).collect::<Result<_, _>>()?,
            domain: if is_standard(&from.domain) { String::new() } else { from.domain.clone() },
            overload: from.overload.clone(),
        })
    }

    /// The engine does not take a value from outside as a result, so such a one is copied.
    fn outputs(&mut self, from: &'a onnx::GraphProto, to: &mut onnx::GraphProto) -> Result<(), ImportError> {
        for info in &from.output {
            let mut name = self.read(&info.name)?;
            let own = self.scopes.last().and_then(|scope| scope.get(info.name.as_str()));
            if !matches!(own, Some(Named::Inside(_))) {
                let copy = format!("b{}", self.defined);
                self.defined += 1;
                let (input, output, op_type) = (vec![name], vec![copy.clone()], "Identity".to_owned());
                to.node.push(onnx::NodeProto { input, output, op_type, ..Default::default() });
                name = copy;
            }
            to.output.push(onnx::ValueInfoProto { name, r#type: declared(info, false) });
        }
        Ok(())
    }
}

/// The element type, and with `sizes` the sizes that are numbers. The engine infers the rest; names are lost.
fn declared(info: &onnx::ValueInfoProto, sizes: bool) -> Option<onnx::TypeProto> {
    let mut to = info.r#type.clone()?;
    if let Some(Kind::TensorType(tensor)) = &mut to.value {
        tensor.shape = tensor.shape.take().filter(|_| sizes);
        for dim in tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim) {
            dim.value = dim.value.take().filter(|value| matches!(value, Dim::DimValue(_)));
        }
    }
    Some(to)
}

/// Puts other names for those that come from outside, in all graphs of an attribute.
pub(crate) fn replace(attribute: &mut onnx::AttributeProto, names: &HashMap<&str, String>) {
    for graph in attribute.g.iter_mut().map(|g| &mut **g).chain(&mut attribute.graphs) {
        for node in &mut graph.node {
            for input in &mut node.input {
                if let Some(name) = names.get(input.as_str()) {
                    input.clone_from(name);
                }
            }
            node.attribute.iter_mut().for_each(|a| replace(a, names));
        }
    }
}

/// The domains of all operators in the graphs of an attribute.
pub(crate) fn domains(attribute: &onnx::AttributeProto, all: &mut BTreeSet<String>) {
    for graph in attribute.g.iter().map(|g| &**g).chain(&attribute.graphs) {
        for node in &graph.node {
            all.insert(node.domain.clone());
            node.attribute.iter().for_each(|a| domains(a, all));
        }
    }
}
