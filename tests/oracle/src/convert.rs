//! From the other decoder's message to the graph that the other shape inference completes.
//!
//! Only what a model cannot do without is handed over: types and shapes of inputs, initializers, nodes. What the file
//! claims of results (`value_info`, shapes of outputs) is left out, so that what comes back is inferred.

use onnx_protobuf::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto};
use onnx_protobuf::{tensor_shape_proto::dimension::Value as Dimension, type_proto};
use onnx_runtime_ir::{Attribute, DataType, Dim, Graph, Node, NodeId, TensorData, ValueId, WeightRef};
use onnx_runtime_ir::{as_static_shape, normalize_domain, static_shape};
use std::collections::{BTreeMap, HashMap};

/// What is chosen for one comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Sizes of named dims.
    pub sizes: BTreeMap<String, u64>,
    /// Inputs with fixed elements. Of an If whose condition is one of them only the branch taken is handed over.
    pub set: BTreeMap<String, Vec<i64>>,
}

/// The main graph with what is chosen; an error says in words what cannot be handed over.
pub fn graph(model: &ModelProto, chosen: &Chosen) -> Result<Graph, String> {
    if !model.functions.is_empty() {
        return Err("it has functions of its own".to_owned());
    }
    // Outputs of the main graph are not declared: their shapes would be merged with the inferred ones.
    let mut graph = Reader::new(chosen).read(&model.graph)?;
    graph.outputs.clear();
    for set in &model.opset_import {
        let version = u64::try_from(set.version).map_err(|_| format!("operator set {}", set.version))?;
        graph.opset_imports.insert(normalize_domain(&set.domain).to_owned(), version);
    }
    Ok(graph)
}

/// One graph in the making: the main one, or one inside of a node.
struct Reader<'a> {
    chosen: &'a Chosen,
    graph: Graph,
    names: HashMap<String, ValueId>,
}

impl<'a> Reader<'a> {
    fn new(chosen: &'a Chosen) -> Reader<'a> {
        Reader { chosen, graph: Graph::new(), names: HashMap::new() }
    }

    fn read(mut self, from: &GraphProto) -> Result<Graph, String> {
        for tensor in &from.initializer {
            self.initializer(tensor)?;
        }
        for info in &from.input {
            self.input(info)?;
        }
        self.nodes(&from.node)?;
        for info in &from.output {
            let value = self.value(&info.name);
            self.graph.add_output(value);
        }
        Ok(self.graph)
    }

    fn initializer(&mut self, tensor: &TensorProto) -> Result<(), String> {
        let data = tensor_data(tensor)?;
        let value = self.known(&tensor.name, data.dtype, static_shape(data.dims.clone()));
        // Absent or large contents matter to no shape.
        self.graph.set_initializer(value, WeightRef::Inline(data));
        Ok(())
    }

    /// An input; old files list initializers among them.
    fn input(&mut self, info: &ValueInfoProto) -> Result<(), String> {
        if self.names.contains_key(&info.name) {
            return Ok(());
        }
        let value = match self.declared(info.type_.as_ref(), &info.name)? {
            Some((dtype, shape)) => {
                let value = self.known(&info.name, dtype, shape.clone());
                if let Some(elements) = self.chosen.set.get(&info.name) {
                    let width = dtype.byte_size();
                    let data = elements.iter().flat_map(|x| x.to_le_bytes().into_iter().take(width)).collect();
                    let dims = as_static_shape(&shape).ok_or("a symbolic input")?;
                    self.graph.set_initializer(value, WeightRef::Inline(TensorData::from_raw(dtype, dims, data)));
                }
                value
            }
            // A body's inputs get theirs from what the node reads.
            None => self.value(&info.name),
        };
        self.graph.add_input(value);
        Ok(())
    }

    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<(), String> {
        nodes.iter().try_for_each(|node| match self.branch(node) {
            Some(branch) => self.inline(node, branch),
            None => self.node(node),
        })
    }

    /// The branch that an If takes, where that is chosen.
    fn branch<'n>(&self, node: &'n NodeProto) -> Option<&'n GraphProto> {
        let condition = node.input.first().filter(|_| node.op_type == "If")?;
        let taken = if *self.chosen.set.get(condition)?.first()? != 0 { "then_branch" } else { "else_branch" };
        node.attribute.iter().find(|attribute| attribute.name == taken)?.g.as_ref()
    }

    /// Reads a branch as part of the graph around it; its results are handed on by name.
    fn inline(&mut self, node: &NodeProto, branch: &GraphProto) -> Result<(), String> {
        for tensor in &branch.initializer {
            self.initializer(tensor)?;
        }
        self.nodes(&branch.node)?;
        for (inner, outer) in branch.output.iter().zip(&node.output).filter(|(inner, outer)| inner.name != **outer) {
            let (from, to) = (self.value(&inner.name), self.value(outer));
            self.graph.insert_node(Node::new(NodeId(0), "Identity", vec![Some(from)], vec![to]));
        }
        Ok(())
    }

    fn node(&mut self, from: &NodeProto) -> Result<(), String> {
        let inputs = from.input.iter().map(|name| (!name.is_empty()).then(|| self.value(name))).collect();
        let outputs = from.output.iter().map(|name| self.value(name)).collect();
        let mut node = Node::new(NodeId(0), from.op_type.clone(), inputs, outputs);
        node.name = from.name.clone();
        node.domain = normalize_domain(&from.domain).to_owned();
        let mut bodies = Vec::new();
        for attribute in &from.attribute {
            if let Some(body) = attribute.g.as_ref() {
                bodies.push((attribute.name.clone(), Reader::new(self.chosen).read(body)?));
            } else {
                node.attributes.insert(attribute.name.clone(), value_of(attribute)?);
            }
        }
        let id = self.graph.insert_node(node);
        self.graph.subgraphs.extend(bodies.into_iter().map(|(name, body)| ((id, name), body)));
        Ok(())
    }

    /// The value of this name, of which nothing is known where it is new. No name is a result that nobody reads.
    fn value(&mut self, name: &str) -> ValueId {
        if let Some(known) = self.names.get(name) {
            return *known;
        }
        let value = self.graph.create_named_value(name, DataType::Undefined, Vec::new());
        self.graph.mark_value_type_unknown(value);
        self.graph.mark_value_shape_unknown(value);
        if !name.is_empty() {
            self.names.insert(name.to_owned(), value);
        }
        value
    }

    fn known(&mut self, name: &str, dtype: DataType, shape: Vec<Dim>) -> ValueId {
        let value = self.graph.create_named_value(name, dtype, shape);
        self.names.insert(name.to_owned(), value);
        value
    }

    /// Type and shape as declared; `None` where either is missing.
    fn declared(&self, declared: Option<&TypeProto>, name: &str) -> Result<Option<(DataType, Vec<Dim>)>, String> {
        let tensor = match declared.and_then(|declared| declared.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => tensor,
            None => return Ok(None),
            Some(_) => return Err(format!("`{name}` is no tensor")),
        };
        let (Some(dtype), Some(shape)) = (DataType::from_onnx(tensor.elem_type), tensor.shape.as_ref()) else {
            return Ok(None);
        };
        let dims = shape.dim.iter().map(|dim| match &dim.value {
            Some(Dimension::DimValue(size)) => usize::try_from(*size).map_err(|_| format!("`{name}` has size {size}")),
            Some(Dimension::DimParam(dim)) => {
                let size =
                    self.chosen.sizes.get(dim).ok_or_else(|| format!("no size is chosen for `{dim}` of `{name}`"))?;
                Ok(*size as usize)
            }
            _ => Err(format!("an axis of `{name}` has neither size nor name")),
        });
        Ok(Some((dtype, dims.map(|size| size.map(Dim::Static)).collect::<Result<_, String>>()?)))
    }
}

/// An attribute that holds no graph.
fn value_of(from: &AttributeProto) -> Result<Attribute, String> {
    use onnx_protobuf::attribute_proto::AttributeType;
    Ok(match from.type_.enum_value() {
        Ok(AttributeType::FLOAT) => Attribute::Float(from.f),
        Ok(AttributeType::INT) => Attribute::Int(from.i),
        Ok(AttributeType::STRING) => Attribute::String(from.s.clone()),
        Ok(AttributeType::TENSOR) => Attribute::Tensor(tensor_data(&from.t)?),
        Ok(AttributeType::FLOATS) => Attribute::Floats(from.floats.clone()),
        Ok(AttributeType::INTS) => Attribute::Ints(from.ints.clone()),
        Ok(AttributeType::STRINGS) => Attribute::Strings(from.strings.clone()),
        other => return Err(format!("attribute `{}` is of type {other:?}", from.name)),
    })
}

/// A tensor with its bytes, wherever in the message they stand; none where they lie in another file.
fn tensor_data(from: &TensorProto) -> Result<TensorData, String> {
    let fail = |what: &str| format!("tensor `{}`: {what}", from.name);
    let dtype = DataType::from_onnx(from.data_type).ok_or_else(|| fail("its type is not known"))?;
    let dims = from.dims.iter().map(|dim| usize::try_from(*dim).map_err(|_| fail("a negative size")));
    let dims = dims.collect::<Result<Vec<usize>, String>>()?;
    let narrow = |value: &i32| value.to_le_bytes().into_iter().take(dtype.byte_size().max(1));
    let data: Vec<u8> = if !from.raw_data.is_empty() {
        from.raw_data.clone()
    } else if !from.int32_data.is_empty() {
        from.int32_data.iter().flat_map(narrow).collect()
    } else if !from.int64_data.is_empty() {
        from.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect()
    } else if !from.float_data.is_empty() {
        from.float_data.iter().flat_map(|value| value.to_le_bytes()).collect()
    } else if !from.double_data.is_empty() {
        from.double_data.iter().flat_map(|value| value.to_le_bytes()).collect()
    } else {
        from.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    Ok(TensorData::from_raw(dtype, dims, data))
}
