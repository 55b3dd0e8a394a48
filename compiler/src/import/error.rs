//! Why a model cannot be read.

use super::wire;
use berth_ir::units::Bytes;
use std::path::PathBuf;

/// Why a model cannot be read: what, where, by how much, what next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not an ONNX model.
    #[error("{path} is no ONNX model: {what}", path = path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// Decoding the file would take more memory than its size justifies.
    #[error(
        "{path}: decoding it would take {} of memory, {} more than a file of {} may take (passed at byte {at}): it is made \
         of very many parts that are empty or nearly so, as no exporter writes them; export the model again",
        Bytes(*needed).human(), Bytes(needed.saturating_sub(wire::allowed(*size))).human(), Bytes(*size).human(),
        path = path.display()
    )]
    Swells {
        /// The file.
        path: PathBuf,
        /// Byte of the file at which it is too much.
        at: usize,
        /// Bytes of the file.
        size: u64,
        /// Bytes of memory.
        needed: u64,
    },
    /// The file's format is newer than this program.
    #[error(
        "the model has ONNX IR version {found}; the newest known here is {newest}; export it with an older version"
    )]
    IrVersion {
        /// The file's version.
        found: i64,
        /// The newest known.
        newest: i64,
    },
    /// The standard operator set is not known.
    #[error(
        "the model imports operator set {found} of the standard domain; known are 1 to {newest}; export or convert it to one of these"
    )]
    Opset {
        /// The file's version.
        found: i64,
        /// The newest known.
        newest: i64,
    },
    /// Something that ONNX allows and this program does not handle.
    #[error("{what} is not supported")]
    Unsupported {
        /// What, by name.
        what: String,
    },
    /// A local function cannot be inlined.
    #[error("local function `{name}`: {problem}")]
    Function {
        /// The function.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An input cannot have the elements that it was given.
    #[error("input `{name}` cannot be set: {problem}")]
    Set {
        /// The input.
        name: String,
        /// Why.
        problem: String,
    },
    /// One name stands for two things.
    #[error("the name `{name}` is defined twice: by {what}")]
    Duplicate {
        /// The name.
        name: String,
        /// By what.
        what: &'static str,
    },
    /// A name stands for nothing.
    #[error("`{name}`, read by {by}, is defined nowhere")]
    Undefined {
        /// The name.
        name: String,
        /// Who reads it.
        by: String,
    },
    /// Operators need each other's results.
    #[error("operators form a cycle, each reading the one before: {0}")]
    Cycle(String),
    /// An input, output or value has an impossible or missing type.
    #[error("`{name}`: {problem}")]
    Type {
        /// The value.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An initializer or constant is inconsistent.
    #[error("initializer `{name}`: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// An initializer's external data may not be used.
    #[error("initializer `{name}`: external data `{location}`: {problem}")]
    External {
        /// Its name.
        name: String,
        /// What the file gives as location.
        location: String,
        /// What is wrong.
        problem: String,
    },
    /// An operator of no known rule, whose output shape the file does not give either.
    #[error(
        "operator `{kind}` (node `{node}`, {set}) is not known, and the model gives no shape for its output `{output}`; \
         add shapes to the model (onnx.shape_inference or ONNX Runtime's symbolic shape inference)"
    )]
    UnknownOp {
        /// The operator type.
        kind: String,
        /// The node's name.
        node: String,
        /// Domain and version.
        set: String,
        /// The output without a shape.
        output: String,
    },
    /// An operator cannot be what the file says.
    #[error("{kind} (node `{node}`): {problem}{hint}")]
    Op {
        /// The operator type.
        kind: String,
        /// The node's name.
        node: String,
        /// What is wrong.
        problem: String,
        /// What was bound, where that may be the reason; empty or a sentence.
        hint: String,
    },
    /// Inputs decide a size: for a plan they have to be given.
    #[error(
        "{kind} (node `{node}`): {problem}; it follows from {}, which `--set` can fix",
        inputs.iter().map(|i| format!("`{i}`")).collect::<Vec<_>>().join(" and ")
    )]
    Decided {
        /// The operator type.
        kind: String,
        /// The node's name.
        node: String,
        /// What is not known.
        problem: String,
        /// The inputs that decide it, by name.
        inputs: Vec<String>,
    },
    /// The file declares another shape or type than its operators give.
    #[error("`{value}` is declared as {declared}, but {op} gives {inferred}")]
    Conflict {
        /// The value.
        value: String,
        /// The operator type and the node's name.
        op: String,
        /// What the file says.
        declared: String,
        /// What the operators give, and what was bound, where that may be the reason.
        inferred: String,
    },
    /// A dim was given a size and no input has it.
    #[error("the model has no dim `{name}`; its inputs have {known}")]
    NoSuchDim {
        /// The name given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A bound dim contradicts the operators.
    #[error("dim `{name}` is bound to {bound}, but the model needs {needed}")]
    Contradiction {
        /// The dim.
        name: String,
        /// Its size.
        bound: u64,
        /// What follows from the others.
        needed: String,
    },
}

impl ImportError {
    pub(super) fn sequence(node: &super::onnx::NodeProto) -> ImportError {
        let (kind, name) = (&node.op_type, super::names::node_name(node));
        let what = format!("{kind} (node `{name}`), an operator on sequences or optional values,");
        ImportError::Unsupported { what }
    }
}
