//! What a model graph is: values with symbolic shapes, operators in file order.
//!
//! A graph is built by an importer and never changed in place by a pass: a rewrite returns a new one.

use crate::{DType, Expr};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Index of a value in [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of an operator in [`Graph::ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u32);

/// A model graph. Operators stand in an order in which each reads only what stands before it.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The name that the file gives, for people only.
    pub name: String,
    /// Operator sets by domain; the standard domain is the empty string.
    pub opsets: Vec<(String, i64)>,
    /// The ONNX IR version of the file; task models are written with it.
    pub ir_version: i64,
    /// All values: inputs, constants, results.
    pub values: Vec<Value>,
    /// All operators, in file order (or the first topological order where the file has none).
    pub ops: Vec<Op>,
    /// The graph's inputs that have no initializer, in file order.
    pub inputs: Vec<ValueId>,
    /// The graph's outputs, in file order.
    pub outputs: Vec<ValueId>,
    /// Dims that only the data decide (how many elements are not zero), each with an upper bound in the other dims.
    pub data_dims: Vec<(String, Expr)>,
    /// Dims of the inputs that are others' expressions, as their names or the operators say; they are in no shape.
    pub relations: BTreeMap<String, Expr>,
    /// What was assumed on the way in, one sentence each, for the person who asks.
    pub assumptions: Vec<String>,
}

impl Graph {
    /// The value with this id. Ids come from this graph, so the index is in range.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }
    /// The operator with this id.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.0 as usize]
    }
}

/// One named value.
#[derive(Clone, Debug)]
pub struct Value {
    /// Unique within the graph, but for an output that is a copy of an input or a constant: it has the same name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// One expression per axis, in named dims. Exact, once the dims of [`Graph::data_dims`] are known too.
    pub shape: Vec<Expr>,
    /// What is known of the contents.
    pub content: Content,
}

impl Value {
    /// Number of elements, as an expression of dims.
    pub fn elements(&self) -> Expr {
        self.shape.iter().cloned().fold(Expr::constant(1), |a, b| a * b)
    }
}

/// What is known of a value's contents before the model runs.
#[derive(Clone, Debug)]
pub enum Content {
    /// Comes from an operator or from the caller.
    Computed,
    /// An initializer or constant whose bytes lie in a file: the model file itself or its external data.
    Stored(Stored),
    /// An initializer or constant held in memory because no file holds these exact bytes (little-endian, packed).
    Inline(Bytes),
    /// An integer value whose every element is known as an expression of dims (row-major), such as a shape.
    /// The operator that computes it is still in `ops`; once the dims are bound it need not run.
    Known(Vec<Expr>),
}

/// Bytes that lie in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Absolute path of the file, already checked to lie inside the model's folder.
    pub path: PathBuf,
    /// The same, relative to the model's folder, as programs name it.
    pub file: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// Length in bytes; equals the size that dtype and shape give.
    pub bytes: u64,
    /// False where the file does not exist: such a model can be planned and not run.
    pub present: bool,
    /// True where the file is the model's own, which the user named; false where the model names it, who is not trusted.
    pub own: bool,
}

/// One operator.
#[derive(Clone, Debug)]
pub struct Op {
    /// Unique within the graph; made from the file's name, or from the first output where the file gives none.
    pub name: String,
    /// Domain; empty for the standard one.
    pub domain: String,
    /// Operator type, such as `MatMul`.
    pub kind: String,
    /// `None` where an optional input is absent.
    pub inputs: Vec<Option<ValueId>>,
    /// `None` where an optional output is absent.
    pub outputs: Vec<Option<ValueId>>,
    /// What the graphs in its attributes (the branches of an If, the body of a Loop) read from outside of themselves: the
    /// name that stands for it there, and the value. In the order of first use, each value once.
    pub captures: Vec<(String, ValueId)>,
    /// Attributes in file order.
    pub attributes: Vec<(String, Attribute)>,
    /// What the operator costs, as expressions of dims.
    pub work: Work,
}

impl Op {
    /// Every value that it reads: its inputs, then what its graphs capture. A value may come twice.
    pub fn reads(&self) -> impl Iterator<Item = ValueId> + Clone + '_ {
        self.inputs.iter().flatten().copied().chain(self.captures.iter().map(|(_, value)| *value))
    }
}

/// Arithmetic of one operator. Bytes moved follow from its operands.
#[derive(Clone, Debug)]
pub struct Work {
    /// Floating-point (or integer) operations; a multiply-add counts as two.
    pub flops: Expr,
    /// Bytes that the graphs in its attributes hold at once, at most; zero without such. An estimate until it is measured.
    pub inside_bytes: Expr,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// Bytes, usually UTF-8.
    String(Bytes),
    /// Floats.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// Byte strings.
    Strings(Vec<Bytes>),
    /// The ONNX `AttributeProto` message (tensors, graphs, types): opaque to berth, kept for the engine. In graphs, names
    /// are numbers, and what [`Op::captures`] lists has the name that it gives.
    Message(Bytes),
}
