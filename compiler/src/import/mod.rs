//! Reads an ONNX file as a graph with exact, symbolic sizes.
//!
//! Reads:    the model file (mapped, weights not looked at), the sizes that the user binds.
//! Decides:  the shape and type of each value, the contents of small integer ones, an order where the file has none.
//! Promises: each value's shape is what the engine will compute; external data lies inside the model's folder; a broken
//!           or hostile file is an [`ImportError`], without a panic and without memory that its size does not justify.
//! Why:      sizes decide plans, so they are derived from the operators; what the file claims is only compared.

mod bodies;
mod build;
mod cast;
mod error;
mod external;
mod floats;
mod fold;
mod functions;
mod limits;
mod map;
mod names;
pub mod ops;
pub(crate) mod rename;
mod scope;
mod tensor;
pub mod wire;

/// The ONNX messages, generated from `proto/onnx.proto`.
#[allow(missing_docs, clippy::all)]
pub mod onnx {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

pub use cast::Cast;
pub use error::ImportError;
pub use tensor::{dtype_from_onnx, dtype_to_onnx, tensor_bytes};

use berth_ir::DType;
use berth_ir::beneath::{self, NotBeneath};
use berth_ir::expr::{Binding, Expr};
use berth_ir::graph::Graph;
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Newest version of the standard operator set whose rules are known.
pub const OPSET_MAX: i64 = 28;
/// Newest ONNX IR version that is read.
pub const IR_MAX: i64 = 14;

/// A decoded model file.
#[derive(Clone, Debug)]
pub struct Model {
    /// The mapped file; weights are slices of it.
    file: Bytes,
    /// Absolute.
    path: PathBuf,
    proto: onnx::ModelProto,
    /// The graph with local functions inlined, where there are any.
    inlined: Option<functions::Inlined>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// What was assumed before there was a graph.
    assumed: Vec<String>,
}

/// An input or output as the file declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name.
    pub name: String,
    /// Element type; `None` where the file gives none (outputs only).
    pub dtype: Option<DType>,
    /// The declared shape; `None` where the file gives none (outputs only).
    pub shape: Option<Vec<Expr>>,
}

/// A named dim, and the inputs in whose shapes it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct InputDim {
    /// Name.
    pub name: String,
    /// Names of the inputs, in file order.
    pub inputs: Vec<String>,
}

/// Opens a model file: maps and decodes it, and checks what can be checked without sizes.
pub fn open(path: &Path) -> Result<Model, ImportError> {
    let io = |source| ImportError::Io { path: path.to_owned(), source };
    let file = beneath::open_named(path).map_err(|e| match e {
        NotBeneath::Io(source) => io(source),
        other => ImportError::NotOnnx { path: path.to_owned(), what: other.to_string() },
    })?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.len() == 0 {
        return Err(ImportError::NotOnnx { path: path.to_owned(), what: "it is empty".to_owned() });
    }
    let bytes = map::map(&file).map_err(io)?;
    // The folder of the name that was given, not of what a link points to: external data lies beside the name.
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().map_err(io)?;
    Model::decode(bytes, folder.join(name))
}

impl Model {
    /// Decodes a model from bytes; `path` names it and says where external data may lie.
    pub fn decode(file: Bytes, path: PathBuf) -> Result<Model, ImportError> {
        let not_onnx = |what: String| ImportError::NotOnnx { path: path.clone(), what };
        wire::check(&file, &path)?;
        let proto = onnx::ModelProto::decode(file.clone()).map_err(|e| not_onnx(e.to_string()))?;
        let Some(graph) = &proto.graph else {
            return Err(not_onnx("it holds no graph".to_owned()));
        };
        if proto.ir_version > IR_MAX {
            return Err(ImportError::IrVersion { found: proto.ir_version, newest: IR_MAX });
        }
        for set in &proto.opset_import {
            if is_standard(&set.domain) && !(1..=OPSET_MAX).contains(&set.version) {
                return Err(ImportError::Opset { found: set.version, newest: OPSET_MAX });
            }
        }
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or(String::new(), |t| t.name.clone());
            return Err(ImportError::Unsupported { what: format!("the sparse initializer `{name}`") });
        }
        let initializers: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let mut seen = HashSet::new();
        let mut inputs = Vec::new();
        for info in &graph.input {
            if !seen.insert(info.name.as_str()) {
                return Err(ImportError::Duplicate { name: info.name.clone(), what: "two graph inputs" });
            }
            if !initializers.contains(info.name.as_str()) {
                inputs.push(build::port(info, true)?);
            }
        }
        let outputs = graph.output.iter().map(|info| build::port(info, false)).collect::<Result<_, _>>()?;
        let inlined = functions::inline(&proto)?;
        Ok(Model { file, path, proto, inlined, inputs, outputs, assumed: Vec::new() })
    }

    /// The same model with its narrow floats computed in another type. Weights stay as the file has them and are cast where
    /// they are used; inputs and outputs are of the new type.
    pub fn cast(mut self, cast: Cast) -> Result<Model, ImportError> {
        let mut graph = self.main_graph().clone();
        let weights = cast::apply(&mut graph, cast);
        let opsets = self.inlined.take().map_or(Vec::new(), |inlined| inlined.opsets);
        let initializers: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let given = graph.input.iter().filter(|info| !initializers.contains(info.name.as_str()));
        self.inputs = given.map(|info| build::port(info, true)).collect::<Result<_, _>>()?;
        self.outputs = graph.output.iter().map(|info| build::port(info, false)).collect::<Result<_, _>>()?;
        let lost = if cast == Cast::F16 { "; values beyond 65504 become infinite" } else { "" };
        self.assumed.push(format!(
            "narrow floats are computed as {cast:?}: {weights} stored weights are cast where they are used{lost}"
        ));
        self.inlined = Some(functions::Inlined { graph, opsets });
        Ok(self)
    }

    /// The absolute path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The decoded message, as the file has it.
    pub fn proto(&self) -> &onnx::ModelProto {
        &self.proto
    }

    /// The inputs that have no initializer, in file order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in file order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The named dims of the inputs, in the order in which they appear.
    pub fn input_dims(&self) -> Vec<InputDim> {
        let mut dims: Vec<InputDim> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for port in &self.inputs {
            for name in port.shape.iter().flatten().flat_map(Expr::dims) {
                let place = *places.entry(name.clone()).or_insert_with(|| {
                    dims.push(InputDim { name, inputs: Vec::new() });
                    dims.len() - 1
                });
                if dims[place].inputs.last() != Some(&port.name) {
                    dims[place].inputs.push(port.name.clone());
                }
            }
        }
        dims
    }

    /// The graph with these dims bound; dims that are not named stay symbolic. Where operators prove a relation between
    /// dims (`past_plus_seq` is `past + seq`), the one on the left need not be bound.
    ///
    /// A key `attention_mask:1` binds one axis of one input, whatever the file names it: some files give axes of unlike
    /// sizes one name.
    pub fn graph(&self, binding: &Binding) -> Result<Graph, ImportError> {
        self.graph_with(binding, &BTreeMap::new())
    }

    /// The same for runs in which these inputs always have these elements: integers, or 0 and 1 for truth values. What
    /// follows from them is worked out here, and of an If whose condition follows only the branch taken is left. The
    /// inputs stay in [`Graph::inputs`], with known contents.
    pub fn graph_with(&self, binding: &Binding, set: &BTreeMap<String, Vec<i64>>) -> Result<Graph, ImportError> {
        build::graph(self, binding, set)
    }

    /// The main graph, without calls of local functions.
    fn main_graph(&self) -> &onnx::GraphProto {
        static EMPTY: std::sync::OnceLock<onnx::GraphProto> = std::sync::OnceLock::new();
        let inlined = self.inlined.as_ref().map(|inlined| &inlined.graph);
        inlined.or(self.proto.graph.as_ref()).unwrap_or_else(|| EMPTY.get_or_init(Default::default))
    }
}

/// The standard domain has two names.
fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}
