//! A model on its way in: opened, bound to sizes, lowered.

use crate::cli;
use crate::failure::Failure;
use crate::npz::Array;
use berth_compiler::import::{self, Cast, ImportError, Model};
use berth_compiler::lower::{Lowered, lower};
use berth_compiler::order::{EFFORT, Ordered, order_after};
use berth_compiler::rewrite::{Saved, rewrite, saved};
use berth_compiler::states::carry;
use berth_ir::Target;
use berth_ir::beneath;
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, Stored};
use berth_ir::program::{Carried, DimRange};
use berth_runtime_exec::store::Places;
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Opens a model file, to be computed in another float type if one is given.
pub fn open(path: &Path, cast: Option<cli::Cast>) -> Result<Model, Failure> {
    let wanted = |model: Model| match cast {
        None => Ok(model),
        Some(cli::Cast::F32) => model.cast(Cast::F32),
        Some(cli::Cast::F16) => model.cast(Cast::F16),
    };
    import::open(path).and_then(wanted).map_err(|e| Failure::bad(format!("`{}`: {e}", path.display())))
}

/// Where a model's weights are.
pub fn places(model: &Model) -> Places {
    let mut places = Places::folder(model.path().parent().unwrap_or(Path::new(".")));
    places.model = model.path().file_name().map(|name| name.to_string_lossy().into_owned());
    places
}

/// Sizes of dims: a range of one is a size.
pub type Dims = BTreeMap<String, DimRange>;

/// The dims that have one size.
pub fn exact(dims: &Dims) -> Binding {
    dims.iter().filter(|(_, r)| r.low == r.high).map(|(d, r)| (d.clone(), r.high)).collect()
}

/// What `--dim` says.
pub fn dims(words: &[String]) -> Result<Dims, Failure> {
    let mut dims = Dims::new();
    for word in words {
        let bad = |problem: &str| {
            Failure::bad(format!("`--dim {word}`: {problem}; write it as `--dim past=1023` or `--dim past=0..1023`"))
        };
        let (name, value) = word.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
        let (low, high) = value.split_once("..").unwrap_or((value, value));
        let size = |text: &str| text.trim().parse().ok().filter(|v| *v <= u64::from(u32::MAX));
        let (low, high) =
            size(low).zip(size(high)).ok_or_else(|| bad("the size is no whole number up to 2^32, nor two of them"))?;
        if low > high {
            return Err(bad("the range ends before it begins"));
        }
        let range = DimRange { low, high };
        if dims.insert(name.to_owned(), range).is_some_and(|old| old != range) {
            return Err(bad("the dim is given twice with two sizes"));
        }
    }
    Ok(dims)
}

/// What `--set` says.
pub fn sets(words: &[String]) -> Result<BTreeMap<String, Vec<i64>>, Failure> {
    let mut all = BTreeMap::new();
    for word in words {
        let bad = |problem: &str| {
            Failure::bad(format!(
                "`--set {word}`: {problem}; write it as `--set use_cache_branch=true` or `--set axes=0,1`"
            ))
        };
        let (name, value) = word.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
        let element = |v: &str| match v.trim() {
            "true" => Some(1),
            "false" => Some(0),
            number => number.parse::<i64>().ok(),
        };
        let values = value.split(',').map(element).collect::<Option<Vec<i64>>>();
        let values = values.ok_or_else(|| bad("a value is neither a whole number nor true or false"))?;
        if all.insert(name.to_owned(), values).is_some() {
            return Err(bad("the input is given twice"));
        }
    }
    Ok(all)
}

/// What `--state` says.
pub fn states(words: &[String]) -> Result<Vec<Carried>, Failure> {
    let one = |word: &String| match word.split_once('=') {
        Some((input, output)) if !input.is_empty() && !output.is_empty() => {
            Ok(Carried { input: input.to_owned(), output: output.to_owned() })
        }
        _ => Err(Failure::bad(format!(
            "`--state {word}`: it names no input and no output; write it as `--state INPUT=OUTPUT`: what a step gives as the output the next step reads as the input"
        ))),
    };
    words.iter().map(one).collect()
}

/// Adds what the shapes of given inputs say of dims. Where two sizes have one name, the second is bound by its input and
/// axis, as some exporters give unlike sizes one name; whether they can stand together is for the operators to say. What
/// comes back are the sizes within the ranges that were given. Of dims that states have, theirs alone, which are those of the
/// first step: what others have may be for a later one.
pub fn dims_of_inputs(
    model: &Model,
    inputs: &BTreeMap<String, Array>,
    states: &[Carried],
    dims: &mut Dims,
) -> Result<Binding, Failure> {
    let given = dims.clone();
    let mut inside = Binding::new();
    // Beside a range, a dim that follows from others is not bound to what it is for one size of the range.
    let ranges = given.values().any(|range| range.low < range.high);
    let follows = match model.graph(&exact(&given)) {
        Ok(graph) if ranges => graph.relations,
        _ => BTreeMap::new(),
    };
    let is_state = |name: &str| states.iter().any(|state| state.input == name);
    let mut of_states: BTreeSet<&str> = BTreeSet::new();
    let ports = model.inputs();
    let (first, others): (Vec<_>, Vec<_>) = ports.iter().partition(|port| is_state(&port.name));
    for port in first.into_iter().chain(others) {
        let (Some(array), Some(shape)) = (inputs.get(&port.name), &port.shape) else { continue };
        if array.shape.len() != shape.len() {
            return Err(Failure::bad(format!(
                "input `{}` has {} axes in the file, {} in the model: give it the model's shape {}",
                port.name,
                array.shape.len(),
                shape.len(),
                said(shape)
            )));
        }
        for (n, (axis, size)) in shape.iter().zip(&array.shape).enumerate() {
            let Some(dim) = axis.as_dim() else { continue };
            let one = DimRange { low: *size, high: *size };
            if given.get(&format!("{}:{n}", port.name)) == Some(&one) {
                continue;
            }
            let said = given.get(dim);
            match is_state(&port.name) {
                true => _ = of_states.insert(dim),
                false if said.is_some_and(|said| said.low < said.high) && of_states.contains(dim) => continue,
                false => {}
            }
            if said.is_some_and(|said| said.low < said.high && (said.low..=said.high).contains(size))
                && *inside.entry(dim.to_owned()).or_insert(*size) == *size
            {
                continue;
            }
            if let Some(said) = said.filter(|said| **said != one) {
                return Err(Failure::bad(format!(
                    "dim `{dim}` is {said} by what was given for it, and {size} in the shape of input `{}`: leave out `--dim {dim}`, or give an input of that size",
                    port.name
                )));
            }
            if follows.contains_key(dim) {
                inside.insert(dim.to_owned(), *size);
                continue;
            }
            if *dims.entry(dim.to_owned()).or_insert(one) != one {
                dims.insert(format!("{}:{n}", port.name), one);
            }
        }
    }
    Ok(inside)
}

fn said(shape: &[berth_ir::Expr]) -> String {
    let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", axes.join(", "))
}

/// The graph at these sizes; every size must be known, or have a range.
pub fn graph(model: &Model, dims: &Dims, set: &BTreeMap<String, Vec<i64>>) -> Result<Graph, Failure> {
    let binding = &exact(dims);
    let known: Vec<String> = model.input_dims().into_iter().map(|d| d.name).collect();
    let axes: Vec<&String> = binding.keys().filter(|d| is_axis(model, d)).collect();
    if let Some(unknown) = dims.keys().find(|d| !known.contains(d) && !axes.contains(d)) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Failure::bad(format!("the model has no dim `{unknown}`; it has {known}")));
    }
    let graph = model.graph_with(binding, set).map_err(|e| {
        let said: Vec<String> = axes.iter().map(|a| unlike(model, binding, a)).collect();
        Failure::bad(format!("`{}`: {e}{}", model.path().display(), said.concat()))
    })?;
    let mut open = BTreeMap::new();
    for input in &graph.inputs {
        let value = graph.value(*input);
        for dim in value.shape.iter().flat_map(|e| e.dims()).filter(|dim| !dims.contains_key(dim)) {
            open.entry(dim).or_insert_with(|| value.name.clone());
        }
    }
    if open.is_empty() {
        return Ok(graph);
    }
    let (dims, words): (Vec<String>, Vec<String>) =
        open.iter().map(|(d, input)| (format!("`{d}` (in `{input}`)"), format!("--dim {d}=N"))).unzip();
    Err(Failure::bad(format!("these dims have no size: {}; give them with {}", dims.join(", "), words.join(" "))))
}

/// Adds to what is set the given inputs that decide sizes: the plan is for these inputs then.
pub fn set_deciding(
    model: &Model,
    dims: &Dims,
    inputs: &BTreeMap<String, Array>,
    set: &mut BTreeMap<String, Vec<i64>>,
) {
    // Each round sets one more input.
    for _ in 0..inputs.len() {
        let Err(ImportError::Decided { inputs: decide, .. }) = model.graph_with(&exact(dims), set) else { break };
        let missing = decide.iter().filter(|name| !set.contains_key(*name));
        let found: Option<Vec<_>> = missing.map(|name| Some((name.clone(), inputs.get(name)?.integers()?))).collect();
        match found {
            Some(found) if !found.is_empty() => set.extend(found),
            _ => break,
        }
    }
}

/// Whether a name is that of an axis of an input, such as `attention_mask:1`.
fn is_axis(model: &Model, name: &str) -> bool {
    let Some((input, axis)) = name.rsplit_once(':') else { return false };
    axis.parse::<usize>().is_ok() && model.inputs().iter().any(|port| port.name == input)
}

/// What is odd about an axis that is bound apart from its dim.
fn unlike(model: &Model, binding: &Binding, axis: &str) -> String {
    let Some((input, n)) = axis.rsplit_once(':') else { return String::new() };
    let port = model.inputs().iter().find(|port| port.name == input);
    let dim = port.and_then(|p| p.shape.as_ref()?.get(n.parse::<usize>().ok()?)?.as_dim());
    let size = |name: &str| binding.get(name).map_or("?".to_owned(), u64::to_string);
    let (here, elsewhere) = (size(axis), dim.map_or("?".to_owned(), size));
    format!("; dim `{}` is {here} in the shape of input `{input}` and {elsewhere} elsewhere", dim.unwrap_or("?"))
}

/// A model on its way to a plan.
pub struct Ready {
    /// What is planned: the graph as it is, or an equal one that moves or holds fewer bytes.
    pub lowered: Lowered,
    /// What the order of its tasks wins.
    pub ordered: Ordered,
    /// What the other graph saves, where it is one.
    pub saved: Option<Saved>,
    /// The graph that is planned.
    pub graph: Graph,
}

/// Lowers a graph for a target, its tasks in the order that holds least: the file's where no other holds less. What is
/// planned follows from the graph, its dims and the target alone, so that a program finds its model again.
pub fn ready(graph: &Graph, dims: &Dims, target: &Target, states: &[Carried]) -> Result<Ready, Failure> {
    let (lowered, ordered) = as_it_is(graph, dims, target, states)?;
    if let Some(other) = rewrite(graph, dims) {
        let (after, order) = as_it_is(&other, dims, target, states)?;
        if let Some(saved) = saved(&lowered.lifetimes, &after.lifetimes) {
            return Ok(Ready { lowered: after, ordered: order, saved: Some(saved), graph: other });
        }
    }
    Ok(Ready { lowered, ordered, saved: None, graph: graph.clone() })
}

/// Lowers a graph without rewriting it; the pairs of inputs and outputs are states.
pub fn as_it_is(
    graph: &Graph,
    dims: &Dims,
    target: &Target,
    states: &[Carried],
) -> Result<(Lowered, Ordered), Failure> {
    let files = Files::default();
    let read = |stored: &Stored, offset, bytes| files.read(stored, offset, bytes);
    let mut lowered = lower(graph, dims, target, &read).map_err(Failure::bad)?;
    let ordered = order_after(&lowered.lifetimes, &lowered.finds(), EFFORT);
    if ordered.after < ordered.before {
        lowered.reorder(&ordered.tasks);
    }
    let lowered = carry(graph, lowered, target, states).map_err(Failure::bad)?;
    Ok((lowered, ordered))
}

/// Reads parts of stored constants, each file opened once.
#[derive(Default)]
struct Files(RefCell<HashMap<PathBuf, Option<File>>>);

impl Files {
    /// So many bytes of a constant from an offset in it; nothing where the file is absent or too short.
    fn read(&self, stored: &Stored, offset: u64, bytes: u64) -> Option<Bytes> {
        let mut files = self.0.borrow_mut();
        let file = files.entry(stored.path.clone()).or_insert_with(|| opened(stored));
        let mut read = vec![0; usize::try_from(bytes).ok()?];
        file.as_ref()?.read_exact_at(&mut read, stored.offset.checked_add(offset)?).ok()?;
        Some(read.into())
    }
}

/// A file of weights: the model's own, which the user named, or one that the model names, beneath its folder.
fn opened(stored: &Stored) -> Option<File> {
    if stored.own {
        return File::open(&stored.path).ok();
    }
    let parts = Path::new(&stored.file).components().count();
    beneath::open(stored.path.ancestors().nth(parts)?, Path::new(&stored.file)).ok()
}
