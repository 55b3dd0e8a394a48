//! Compares what two decoders make of one file, field by field.
//!
//! Ours is taken apart without `..`, so a field that berth starts to read does not compile until it is compared here.
//!
//! The other schema is IR 10's. What it cannot know, and all that is therefore not compared:
//! - whether an attribute's `f`, `i` or `s` stands in the file as zero or not at all, because there it has no presence;
//! - the domain and name of an opaque type: a field that the other does not know is a difference, whichever it is.

use berth_compiler::import::onnx as ours;
use onnx_protobuf as theirs;
use ours::{tensor_shape_proto as our_shape, type_proto as our_type};
use protobuf::SpecialFields;
use std::fmt::Debug;
use theirs::{tensor_shape_proto as their_shape, type_proto as their_type};

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Fields that were compared, each element of a repeated message with its own.
    pub fields: usize,
    /// One line for each that differs: where, and both sides.
    pub differences: Vec<String>,
    /// Where the walk stands.
    at: Vec<String>,
}

/// Compares two decoded models.
pub fn compare(ours: &ours::ModelProto, theirs: &theirs::ModelProto) -> Compared {
    let mut walk = Compared::default();
    model(&mut walk, ours, theirs);
    walk
}

impl Compared {
    /// Does this one step further down.
    fn below(&mut self, step: String, then: impl FnOnce(&mut Compared)) {
        self.at.push(step);
        then(self);
        self.at.pop();
    }

    fn differ(&mut self, field: &str, what: &str) {
        let path = self.at.iter().map(|step| format!("{step}.")).collect::<String>();
        self.differences.push(format!("{path}{field}: {what}"));
    }

    /// A field that holds one thing, or a list of numbers or texts.
    fn same<T: PartialEq + Debug>(&mut self, field: &str, ours: T, theirs: T) {
        self.fields += 1;
        if ours != theirs {
            let (mut x, mut y) = (format!("{ours:?}"), format!("{theirs:?}"));
            // Cut at a character: debug text of numbers and texts may be long and hold any.
            for text in [&mut x, &mut y] {
                *text = text.chars().take(200).collect();
            }
            self.differ(field, &format!("{x} here, {y} there"));
        }
    }

    /// Bytes; only the place of the first that differs is shown.
    fn same_bytes(&mut self, field: &str, ours: &[u8], theirs: &[u8]) {
        self.fields += 1;
        if ours != theirs {
            let place = ours.iter().zip(theirs).position(|(x, y)| x != y).unwrap_or(ours.len().min(theirs.len()));
            self.differ(field, &format!("{} bytes here, {} there, differ at {place}", ours.len(), theirs.len()));
        }
    }

    /// A repeated message, in order.
    fn each<A, B>(&mut self, field: &str, ours: &[A], theirs: &[B], one: fn(&mut Compared, &A, &B)) {
        self.same(field, ours.len(), theirs.len());
        for (index, (x, y)) in ours.iter().zip(theirs).enumerate() {
            self.below(format!("{field}[{index}]"), |walk| one(walk, x, y));
        }
    }

    /// A message that may be absent.
    fn maybe<A, B>(&mut self, field: &str, ours: Option<&A>, theirs: Option<&B>, one: fn(&mut Compared, &A, &B)) {
        self.same(field, ours.is_some(), theirs.is_some());
        if let (Some(x), Some(y)) = (ours, theirs) {
            self.below(field.to_owned(), |walk| one(walk, x, y));
        }
    }

    /// No field is there that the older schema does not know.
    fn all_known(&mut self, fields: &SpecialFields) {
        for (number, _) in fields.unknown_fields().iter() {
            self.differ(&format!("#{number}"), "a field that is not known there");
        }
    }
}

fn model(walk: &mut Compared, ours: &ours::ModelProto, theirs: &theirs::ModelProto) {
    let ours::ModelProto { ir_version, producer_name, producer_version, graph: g, opset_import, functions } = ours;
    walk.same("ir_version", *ir_version, theirs.ir_version);
    walk.same("producer_name", producer_name, &theirs.producer_name);
    walk.same("producer_version", producer_version, &theirs.producer_version);
    walk.each("opset_import", opset_import, &theirs.opset_import, opset);
    walk.maybe("graph", g.as_ref(), theirs.graph.as_ref(), graph);
    walk.each("functions", functions, &theirs.functions, function);
    walk.all_known(&theirs.special_fields);
}

fn opset(walk: &mut Compared, ours: &ours::OperatorSetIdProto, theirs: &theirs::OperatorSetIdProto) {
    let ours::OperatorSetIdProto { domain, version } = ours;
    walk.same("domain", domain, &theirs.domain);
    walk.same("version", *version, theirs.version);
    walk.all_known(&theirs.special_fields);
}

fn function(walk: &mut Compared, ours: &ours::FunctionProto, theirs: &theirs::FunctionProto) {
    let ours::FunctionProto {
        name,
        input,
        output,
        attribute: names,
        node: nodes,
        opset_import,
        domain,
        attribute_proto,
        overload,
    } = ours;
    walk.same("name", name, &theirs.name);
    walk.same("input", input, &theirs.input);
    walk.same("output", output, &theirs.output);
    walk.same("attribute", names, &theirs.attribute);
    walk.each("node", nodes, &theirs.node, node);
    walk.each("opset_import", opset_import, &theirs.opset_import, opset);
    walk.same("domain", domain, &theirs.domain);
    walk.each("attribute_proto", attribute_proto, &theirs.attribute_proto, attribute);
    walk.same("overload", overload, &theirs.overload);
    walk.all_known(&theirs.special_fields);
}

fn graph(walk: &mut Compared, ours: &ours::GraphProto, theirs: &theirs::GraphProto) {
    let ours::GraphProto { node: nodes, name, initializer, input, output, value_info, sparse_initializer } = ours;
    walk.each("node", nodes, &theirs.node, node);
    walk.same("name", name, &theirs.name);
    walk.each("initializer", initializer, &theirs.initializer, tensor);
    walk.each("input", input, &theirs.input, value);
    walk.each("output", output, &theirs.output, value);
    walk.each("value_info", value_info, &theirs.value_info, value);
    walk.each("sparse_initializer", sparse_initializer, &theirs.sparse_initializer, sparse);
    walk.all_known(&theirs.special_fields);
}

fn node(walk: &mut Compared, ours: &ours::NodeProto, theirs: &theirs::NodeProto) {
    let ours::NodeProto { input, output, name, op_type, attribute: attributes, domain, overload } = ours;
    walk.same("input", input, &theirs.input);
    walk.same("output", output, &theirs.output);
    walk.same("name", name, &theirs.name);
    walk.same("op_type", op_type, &theirs.op_type);
    walk.each("attribute", attributes, &theirs.attribute, attribute);
    walk.same("domain", domain, &theirs.domain);
    walk.same("overload", overload, &theirs.overload);
    walk.all_known(&theirs.special_fields);
}

fn attribute(walk: &mut Compared, ours: &ours::AttributeProto, theirs: &theirs::AttributeProto) {
    let ours::AttributeProto {
        name,
        f,
        i,
        s,
        t,
        g,
        floats,
        ints,
        strings,
        tensors,
        graphs,
        tp,
        type_protos,
        r#type,
        ref_attr_name,
        sparse_tensor,
        sparse_tensors,
    } = ours;
    walk.same("name", name, &theirs.name);
    // Absent and zero are one there.
    walk.same("f", f.unwrap_or_default().to_bits(), theirs.f.to_bits());
    walk.same("i", i.unwrap_or_default(), theirs.i);
    walk.same_bytes("s", s.as_deref().unwrap_or_default(), &theirs.s);
    walk.maybe("t", t.as_deref(), theirs.t.as_ref(), tensor);
    walk.maybe("g", g.as_deref(), theirs.g.as_ref(), graph);
    walk.same("floats", bits(floats), bits(&theirs.floats));
    walk.same("ints", ints, &theirs.ints);
    walk.each("strings", strings, &theirs.strings, |walk, x, y| walk.same_bytes("bytes", x, y));
    walk.each("tensors", tensors, &theirs.tensors, tensor);
    walk.each("graphs", graphs, &theirs.graphs, graph);
    walk.maybe("tp", tp.as_deref(), theirs.tp.as_ref(), type_of);
    walk.each("type_protos", type_protos, &theirs.type_protos, type_of);
    walk.same("type", *r#type, theirs.type_.value());
    walk.same("ref_attr_name", ref_attr_name, &theirs.ref_attr_name);
    walk.maybe("sparse_tensor", sparse_tensor.as_deref(), theirs.sparse_tensor.as_ref(), sparse);
    walk.each("sparse_tensors", sparse_tensors, &theirs.sparse_tensors, sparse);
    walk.all_known(&theirs.special_fields);
}

fn value(walk: &mut Compared, ours: &ours::ValueInfoProto, theirs: &theirs::ValueInfoProto) {
    let ours::ValueInfoProto { name, r#type } = ours;
    walk.same("name", name, &theirs.name);
    walk.maybe("type", r#type.as_ref(), theirs.type_.as_ref(), type_of);
    walk.all_known(&theirs.special_fields);
}

fn tensor(walk: &mut Compared, ours: &ours::TensorProto, theirs: &theirs::TensorProto) {
    let ours::TensorProto {
        dims,
        data_type,
        float_data,
        int32_data,
        string_data,
        int64_data,
        name,
        raw_data,
        double_data,
        uint64_data,
        external_data,
        data_location,
    } = ours;
    walk.same("dims", dims, &theirs.dims);
    walk.same("data_type", *data_type, theirs.data_type);
    // Packed on the wire as they lie in memory; berth keeps them as bytes.
    let floats: Vec<u8> = theirs.float_data.iter().flat_map(|x| x.to_le_bytes()).collect();
    let doubles: Vec<u8> = theirs.double_data.iter().flat_map(|x| x.to_le_bytes()).collect();
    walk.same_bytes("float_data", float_data, &floats);
    walk.same("int32_data", int32_data, &theirs.int32_data);
    walk.each("string_data", string_data, &theirs.string_data, |walk, x, y| walk.same_bytes("bytes", x, y));
    walk.same("int64_data", int64_data, &theirs.int64_data);
    walk.same("name", name, &theirs.name);
    walk.same_bytes("raw_data", raw_data, &theirs.raw_data);
    walk.same_bytes("double_data", double_data, &doubles);
    walk.same("uint64_data", uint64_data, &theirs.uint64_data);
    walk.each("external_data", external_data, &theirs.external_data, entry);
    walk.same("data_location", *data_location, theirs.data_location.value());
    walk.all_known(&theirs.special_fields);
}

fn sparse(walk: &mut Compared, ours: &ours::SparseTensorProto, theirs: &theirs::SparseTensorProto) {
    let ours::SparseTensorProto { values, indices, dims } = ours;
    walk.maybe("values", values.as_ref(), theirs.values.as_ref(), tensor);
    walk.maybe("indices", indices.as_ref(), theirs.indices.as_ref(), tensor);
    walk.same("dims", dims, &theirs.dims);
    walk.all_known(&theirs.special_fields);
}

fn entry(walk: &mut Compared, ours: &ours::StringStringEntryProto, theirs: &theirs::StringStringEntryProto) {
    let ours::StringStringEntryProto { key, value } = ours;
    walk.same("key", key, &theirs.key);
    walk.same("value", value, &theirs.value);
    walk.all_known(&theirs.special_fields);
}

fn shape(walk: &mut Compared, ours: &ours::TensorShapeProto, theirs: &theirs::TensorShapeProto) {
    let ours::TensorShapeProto { dim } = ours;
    walk.each("dim", dim, &theirs.dim, dimension);
    walk.all_known(&theirs.special_fields);
}

fn dimension(walk: &mut Compared, ours: &our_shape::Dimension, theirs: &their_shape::Dimension) {
    use our_shape::dimension::Value as Ours;
    use their_shape::dimension::Value as Theirs;
    let our_shape::Dimension { value } = ours;
    let named = |value: &Ours| match value {
        Ours::DimValue(size) => Theirs::DimValue(*size),
        Ours::DimParam(name) => Theirs::DimParam(name.clone()),
    };
    walk.same("value", value.as_ref().map(named), theirs.value.clone());
    walk.all_known(&theirs.special_fields);
}

fn type_of(walk: &mut Compared, ours: &ours::TypeProto, theirs: &theirs::TypeProto) {
    use our_type::Value as Ours;
    use their_type::Value as Theirs;
    let ours::TypeProto { value } = ours;
    walk.all_known(&theirs.special_fields);
    match (value, &theirs.value) {
        (Some(Ours::TensorType(x)), Some(Theirs::TensorType(y))) => {
            let our_type::Tensor { elem_type, shape: dims } = x;
            walk.same("tensor_type.elem_type", *elem_type, y.elem_type);
            walk.maybe("tensor_type.shape", dims.as_ref(), y.shape.as_ref(), shape);
            walk.all_known(&y.special_fields);
        }
        (Some(Ours::SparseTensorType(x)), Some(Theirs::SparseTensorType(y))) => {
            let our_type::Tensor { elem_type, shape: dims } = x;
            walk.same("sparse_tensor_type.elem_type", *elem_type, y.elem_type);
            walk.maybe("sparse_tensor_type.shape", dims.as_ref(), y.shape.as_ref(), shape);
            walk.all_known(&y.special_fields);
        }
        (Some(Ours::SequenceType(x)), Some(Theirs::SequenceType(y))) => {
            let our_type::Sequence { elem_type } = &**x;
            walk.maybe("sequence_type.elem_type", elem_type.as_deref(), y.elem_type.as_ref(), type_of);
            walk.all_known(&y.special_fields);
        }
        (Some(Ours::OptionalType(x)), Some(Theirs::OptionalType(y))) => {
            let our_type::Optional { elem_type } = &**x;
            walk.maybe("optional_type.elem_type", elem_type.as_deref(), y.elem_type.as_ref(), type_of);
            walk.all_known(&y.special_fields);
        }
        (Some(Ours::MapType(x)), Some(Theirs::MapType(y))) => {
            let our_type::Map { key_type, value_type } = &**x;
            walk.same("map_type.key_type", *key_type, y.key_type);
            walk.maybe("map_type.value_type", value_type.as_deref(), y.value_type.as_ref(), type_of);
            walk.all_known(&y.special_fields);
        }
        (None, None) => walk.fields += 1,
        (x, y) => walk.differ("value", &format!("{x:?} here, {y:?} there")),
    }
}

/// Floats as bits: two that are no number may differ.
fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|x| x.to_bits()).collect()
}
