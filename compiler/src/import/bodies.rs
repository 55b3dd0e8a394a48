//! Operators that hold graphs: If, Loop and Scan.
//!
//! Reads:    the node, the values that names stand for around it.
//! Decides:  which branch an If with a known condition takes; else one opaque operator, with what it reads from outside
//!           listed, and the shapes of its results from its bodies.
//! Promises: large constants in bodies are values of the graph, so that they stream like any weight and no engine opens
//!           a file; equal bodies are equal bytes; a size that changes from run to run is a dim of the data.
//! Why:      the engine runs a body as a whole, so what is planned is what goes in and comes out.

use super::build::{Builder, Stop, attribute};
use super::names::{self, bodies, node_name};
use super::ops::{Out, show};
use super::scope::Scope;
use super::{ImportError, is_standard, onnx, rename};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Content, Op, Value, ValueId, Work};
use std::collections::HashMap;

/// Constants in bodies larger than this become values of the graph; smaller ones (scalars, axes) are part of the code,
/// as those of other operators are.
const INSIDE_BYTES_MAX: usize = 64;

/// What the engine needs for a body besides its values: counters, conditions, lists of turns' results.
const INSIDE_BYTES_MORE: i128 = 4096;

/// The size of a result along one axis.
#[derive(Clone, Debug, PartialEq)]
enum Size {
    Exact(Expr),
    /// Only the data decide it; at most this, or overflow where nothing bounds it.
    Data(Expr),
}

/// A result of a body.
#[derive(Clone, Debug)]
struct Given {
    dtype: DType,
    shape: Vec<Size>,
    known: Option<Vec<Expr>>,
}

/// What a body gives.
struct Body {
    results: Vec<Given>,
    work: Work,
}

impl Size {
    fn bound(&self) -> &Expr {
        match self {
            Size::Exact(size) | Size::Data(size) => size,
        }
    }

    fn into_bound(self) -> Expr {
        match self {
            Size::Exact(size) | Size::Data(size) => size,
        }
    }
}

impl Given {
    fn show(&self) -> String {
        let axis = |size: &Size| match size {
            Size::Exact(size) => size.to_string(),
            Size::Data(_) => "?".to_owned(),
        };
        format!("[{}]", self.shape.iter().map(axis).collect::<Vec<_>>().join(", "))
    }
}

impl<'a> Builder<'a> {
    /// Adds an If, a Loop or a Scan.
    pub(super) fn control(&mut self, node: &'a onnx::NodeProto, opset: i64) -> Result<(), Stop> {
        let inputs = self.operands(node);
        if node.op_type == "If" {
            let Some(Some(condition)) = inputs.first() else {
                return Err(self.fail(node, "its condition is absent".to_owned()).into());
            };
            if let Some(taken) = self.truth(*condition) {
                let which = if taken { "then_branch" } else { "else_branch" };
                let branch = self.graph_of(node, which)?;
                if self.bodies == 0 {
                    let note =
                        format!("If (node `{}`) always takes its {which}; the other is left out", node_name(node));
                    self.graph.assumptions.push(note);
                }
                return self.inline(node, branch, which);
            }
        }
        self.opaque(node, inputs, opset)
    }

    /// A known condition.
    fn truth(&self, id: ValueId) -> Option<bool> {
        match &self.graph.value(id).content {
            Content::Known(elements) => match elements.as_slice() {
                [one] => one.as_constant().map(|value| value != 0),
                _ => None,
            },
            _ => None,
        }
    }

    fn graph_of(&self, node: &'a onnx::NodeProto, name: &str) -> Result<&'a onnx::GraphProto, Stop> {
        let graph = node.attribute.iter().find(|a| a.name == name).and_then(|a| a.g.as_deref());
        graph.ok_or_else(|| self.fail(node, format!("its attribute `{name}` holds no graph")).into())
    }

    fn opaque(&mut self, node: &'a onnx::NodeProto, inputs: Vec<Option<ValueId>>, opset: i64) -> Result<(), Stop> {
        let name = node_name(node);
        for (_, body) in bodies(node) {
            refuse(body)?;
        }
        let (mut attributes, mut captures) = (Vec::new(), Vec::new());
        // What stands in a body is read for its sizes only.
        if self.bodies == 0 {
            for (_, body) in bodies(node) {
                self.hoist(body)?;
            }
            let mut canon = rename::Canon::new(self);
            let protos: Vec<onnx::AttributeProto> =
                node.attribute.iter().map(|a| canon.attribute(a)).collect::<Result<_, _>>()?;
            captures = canon.captures;
            for proto in &protos {
                attributes.push(attribute(proto).map_err(|problem| self.fail(node, problem))?);
            }
        }
        let notes = self.graph.assumptions.len();
        let given = match node.op_type.as_str() {
            "If" => self.branches(node),
            "Loop" => self.looped(node, &inputs),
            _ => self.scanned(node, &inputs, opset),
        };
        let shown: Vec<String> = node.output.iter().map(|o| self.value_name(o)).collect();
        let (outs, work) = match given {
            Ok(body) => (self.settled(node, body.results, &shown)?, body.work),
            Err(Stop::Unknown(why)) => {
                self.graph.assumptions.truncate(notes);
                let outs = self.all_declared(node, why)?;
                // What is inside is not known; its results at least are there twice.
                let inside_bytes =
                    outs.iter().map(|out| bytes(out.dtype, &out.shape)).fold(Expr::constant(0), |a, b| a + b);
                (outs, Work { flops: Expr::constant(0), inside_bytes })
            }
            Err(stop) => return Err(stop),
        };
        // The engine orders a body depth first and leaves holes between what it holds: up to twice the sum was seen.
        let inside_bytes = match self.bodies {
            0 => work.inside_bytes * Expr::constant(2) + Expr::constant(INSIDE_BYTES_MORE),
            _ => work.inside_bytes,
        };
        let work = Work { inside_bytes, ..work };
        let outputs = self.outputs(node, None, outs, shown)?;
        let (name, kind) = (self.unique(name), node.op_type.clone());
        self.graph.ops.push(Op { name, domain: String::new(), kind, inputs, outputs, captures, attributes, work });
        Ok(())
    }

    /// Makes the large constants of a body, and those in files of their own, values of the graph.
    fn hoist(&mut self, graph: &'a onnx::GraphProto) -> Result<(), ImportError> {
        for tensor in graph.initializer.iter().filter(|t| is_large(t)) {
            let name = self.unique_value(&tensor.name);
            let id = self.constant(name, tensor)?;
            self.hoisted.insert(std::ptr::from_ref(tensor).addr(), id);
        }
        for node in &graph.node {
            let value = node.attribute.iter().find_map(|a| a.t.as_deref()).filter(|t| is_large(t));
            if let (true, Some(tensor), [output]) = (is_constant(node), value, node.output.as_slice()) {
                let name = self.unique_value(output);
                let tensor = onnx::TensorProto { name: output.clone(), ..tensor.clone() };
                let id = self.constant(name, &tensor)?;
                self.hoisted.insert(std::ptr::from_ref(node).addr(), id);
            }
            for (_, body) in bodies(node) {
                self.hoist(body)?;
            }
        }
        Ok(())
    }

    /// Works out what a body gives for these inputs. Its values are dropped.
    fn body(&mut self, node: &onnx::NodeProto, graph: &'a onnx::GraphProto, inputs: Vec<Value>) -> Result<Body, Stop> {
        let (values, ops, dims) = (self.graph.values.len(), self.graph.ops.len(), self.graph.data_dims.len());
        let (notes, scopes) = (self.graph.assumptions.len(), self.scopes.len());
        self.bodies += 1;
        let result = self.body_results(node, graph, inputs, ops);
        let inside_bytes = self.inside_bytes(ops, values);
        self.bodies -= 1;
        self.scopes.truncate(scopes);
        for id in values..self.graph.values.len() {
            self.data.remove(&ValueId(id as u32));
            self.floats.remove(&ValueId(id as u32));
        }
        self.graph.values.truncate(values);
        self.graph.ops.truncate(ops);
        let inside = self.graph.data_dims.split_off(dims);
        if result.is_err() {
            self.graph.assumptions.truncate(notes);
        }
        let (outs, flops) = result?;
        let flops = leave(flops, &inside).into_bound();
        let inside_bytes = leave(inside_bytes, &inside).into_bound();
        let results = outs.into_iter().map(|out| Given {
            dtype: out.dtype,
            shape: out.shape.into_iter().map(|size| leave(size, &inside)).collect(),
            known: out.known.filter(|known| known.iter().all(|e| leave(e.clone(), &inside) == Size::Exact(e.clone()))),
        });
        Ok(Body { results: results.collect(), work: Work { flops, inside_bytes } })
    }

    /// Bytes that values of a body hold at once if it runs in this order and each is freed after its last use; where
    /// sizes are not numbers, the bytes of all of them.
    fn inside_bytes(&self, ops: usize, values: usize) -> Expr {
        let ops = &self.graph.ops[ops..];
        let size = |id: ValueId| {
            let value = self.graph.value(id);
            bytes(value.dtype, &value.shape)
        };
        let inside = |id: &ValueId| id.0 as usize >= values;
        let results = |op: &'_ Op| op.outputs.iter().flatten().copied().collect::<Vec<_>>();
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        for (at, op) in ops.iter().enumerate() {
            last.extend(op.reads().filter(inside).map(|id| (id, at)));
        }
        let (mut alive, mut most, mut all) = (0i128, 0i128, Expr::constant(0));
        for (at, op) in ops.iter().enumerate() {
            for id in results(op) {
                all = all + size(id);
                alive = alive.saturating_add(size(id).as_constant().unwrap_or(0));
            }
            all = all + &op.work.inside_bytes;
            most = most.max(alive.saturating_add(op.work.inside_bytes.as_constant().unwrap_or(0)));
            let mut ended: Vec<ValueId> = op.reads().filter(|id| last.get(id) == Some(&at)).collect();
            ended.sort_unstable();
            ended.dedup();
            // What a body was given is not its own to free.
            let own = |id: &ValueId| !matches!(self.graph.value(*id).content, Content::Stored(_) | Content::Inline(_));
            for id in ended.into_iter().filter(own) {
                alive = alive.saturating_sub(size(id).as_constant().unwrap_or(0)).max(0);
            }
        }
        if all.as_constant().is_some() { Expr::constant(most) } else { all }
    }

    fn body_results(
        &mut self,
        node: &onnx::NodeProto,
        graph: &'a onnx::GraphProto,
        inputs: Vec<Value>,
        ops: usize,
    ) -> Result<(Vec<Out>, Expr), Stop> {
        if graph.input.len() != inputs.len() {
            let problem = format!("its graph has {} inputs, {} are needed", graph.input.len(), inputs.len());
            return Err(self.fail(node, problem).into());
        }
        self.scopes.push(Scope::new(graph));
        for (input, value) in graph.input.iter().zip(inputs) {
            let id = self.push(Value { name: input.name.clone(), ..value });
            self.bind(&input.name, id, "two inputs of a graph")?;
        }
        self.initializers(graph)?;
        self.walk(graph)?;
        let mut outs = Vec::with_capacity(graph.output.len());
        for output in &graph.output {
            let Some(id) = self.lookup(&output.name) else {
                let by = format!("the results of a graph in node `{}`", node_name(node));
                return Err(ImportError::Undefined { name: output.name.clone(), by }.into());
            };
            let value = self.graph.value(id);
            let known = match &value.content {
                Content::Known(elements) => Some(elements.clone()),
                _ => None,
            };
            outs.push(Out { known, ..Out::new(value.dtype, value.shape.clone()) });
        }
        let flops = self.graph.ops[ops..].iter().fold(Expr::constant(0), |sum, op| sum + &op.work.flops);
        Ok((outs, flops))
    }

    /// Both branches of an If whose condition is computed.
    fn branches(&mut self, node: &'a onnx::NodeProto) -> Result<Body, Stop> {
        let mut taken = Vec::new();
        let mut impossible = None;
        for which in ["then_branch", "else_branch"] {
            let graph = self.graph_of(node, which)?;
            match self.body(node, graph, Vec::new()) {
                Ok(body) if body.results.len() == node.output.len() => taken.push(body),
                Ok(body) => {
                    let problem =
                        format!("its {which} has {} results, it has {}", body.results.len(), node.output.len());
                    return Err(self.fail(node, problem).into());
                }
                Err(Stop::Mismatch(error)) => impossible = Some((which, error)),
                Err(stop) => return Err(stop),
            }
        }
        match (taken.pop(), taken.pop(), impossible) {
            (Some(otherwise), Some(then), _) => self.merge(node, then, otherwise),
            (Some(only), None, Some((which, error))) => {
                let note = format!("the {which} cannot run at these sizes and is taken as never taken ({error})");
                self.note(node, note);
                Ok(only)
            }
            (_, _, Some((_, error))) => Err(Stop::Mismatch(error)),
            _ => Err(self.fail(node, "it has no branches".to_owned()).into()),
        }
    }

    /// Where the branches give unlike sizes, the run says which it is; the larger is planned.
    fn merge(&mut self, node: &onnx::NodeProto, then: Body, otherwise: Body) -> Result<Body, Stop> {
        let unlike = |what: String| {
            let what = format!(
                "If (node `{}`), whose branches give {what}, with a condition that is computed,",
                node_name(node)
            );
            Stop::Error(ImportError::Unsupported { what })
        };
        let work = Work {
            flops: then.work.flops.max(&otherwise.work.flops),
            inside_bytes: then.work.inside_bytes.max(&otherwise.work.inside_bytes),
        };
        let mut results = Vec::with_capacity(node.output.len());
        for ((a, b), name) in then.results.into_iter().zip(otherwise.results).zip(&node.output) {
            if a.dtype != b.dtype {
                return Err(unlike(format!("`{name}` as {:?} and as {:?}", a.dtype, b.dtype)));
            }
            if a.shape.len() != b.shape.len() {
                return Err(unlike(format!("`{name}` the shapes {} and {}", a.show(), b.show())));
            }
            let shape = a.shape.iter().zip(&b.shape).map(|(x, y)| match (x, y) {
                (Size::Exact(x), Size::Exact(y)) if x == y => Size::Exact(x.clone()),
                (x, y) => Size::Data(x.bound().max(y.bound())),
            });
            let shape: Vec<Size> = shape.collect();
            let known = a.known.filter(|known| b.known.as_ref() == Some(known));
            results.push(Given { dtype: a.dtype, shape, known });
        }
        Ok(Body { results, work })
    }

    fn looped(&mut self, node: &'a onnx::NodeProto, inputs: &[Option<ValueId>]) -> Result<Body, Stop> {
        let graph = self.graph_of(node, "body")?;
        let states: Vec<Value> = self.given(node, inputs.get(2..).unwrap_or_default())?;
        // The condition is true whenever the body runs.
        let scalar = |name: usize, dtype: DType, content: Content| {
            let rank = graph.input.get(name).map_or(0, rank_of);
            Value { name: String::new(), dtype, shape: vec![Expr::constant(1); rank.min(1)], content }
        };
        let mut all = vec![
            scalar(0, DType::I64, Content::Computed),
            scalar(1, DType::Bool, Content::Known(vec![Expr::constant(1)])),
        ];
        all.extend(states.iter().cloned());
        let body = self.body(node, graph, all)?;
        if body.results.len() < 1 + states.len() || body.results.len() != 1 + node.output.len() {
            let (carried, inside, outside) = (states.len(), body.results.len(), node.output.len());
            let problem = format!(
                "it carries {carried} values and has {outside} results; its body has {inside} with the condition"
            );
            return Err(self.fail(node, problem).into());
        }
        let mut given = body.results.into_iter();
        let goes_on = given.next().and_then(|condition| condition.known);
        let goes_on = goes_on.is_some_and(|known| known == [Expr::constant(1)]);
        let starts = inputs.get(1).copied().flatten().map_or(Some(true), |id| self.truth(id));
        let most = inputs.first().copied().flatten().and_then(|id| match &self.graph.value(id).content {
            Content::Known(elements) => elements.first().map(|most| most.max(&Expr::constant(0))),
            _ => None,
        });
        let trips = match (most, starts) {
            (_, Some(false)) => Size::Exact(Expr::constant(0)),
            (Some(most), Some(true)) if goes_on => Size::Exact(most),
            (Some(most), _) => Size::Data(most),
            (None, _) => Size::Data(Expr::overflow()),
        };
        let mut results = Vec::with_capacity(node.output.len());
        for state in &states {
            let after = given.next();
            results.push(self.carried(node, state, after)?);
        }
        for scanned in given {
            let shape = std::iter::once(trips.clone()).chain(scanned.shape).collect();
            results.push(Given { dtype: scanned.dtype, shape, known: None });
        }
        let flops = match trips.bound() {
            trips if trips.is_overflow() => {
                self.note(node, "how often it runs is not known; its cost is that of one turn".to_owned());
                body.work.flops
            }
            trips => body.work.flops * trips,
        };
        let inside_bytes = body.work.inside_bytes + held(&results);
        Ok(Body { results, work: Work { flops, inside_bytes } })
    }

    fn scanned(&mut self, node: &'a onnx::NodeProto, inputs: &[Option<ValueId>], opset: i64) -> Result<Body, Stop> {
        if opset < 9 {
            let what = format!("Scan (node `{}`) of an operator set before 9, with its batch axis,", node_name(node));
            return Err(ImportError::Unsupported { what }.into());
        }
        let graph = self.graph_of(node, "body")?;
        let count = node.attribute.iter().find(|a| a.name == "num_scan_inputs").and_then(|a| a.i);
        let count = count.and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=inputs.len()).contains(n));
        let Some(count) = count else {
            return Err(self
                .fail(node, "its attribute `num_scan_inputs` is no number of its operands".to_owned())
                .into());
        };
        let axes = |name: &str| node.attribute.iter().find(|a| a.name == name).map_or(&[] as &[i64], |a| &a.ints);
        let mut all = self.given(node, inputs)?;
        let carried = all.len() - count;
        let mut length: Option<Expr> = None;
        for (index, value) in all[carried..].iter_mut().enumerate() {
            let axis = axes("scan_input_axes").get(index).copied().unwrap_or(0);
            let Some(axis) = place(axis, value.shape.len()) else {
                let problem = format!("`{}` {} has no axis {axis} to scan", value.name, show(&value.shape));
                return Err(self.fail(node, problem).into());
            };
            let size = value.shape.remove(axis);
            let differ = |length: &Expr| (length - &size).as_constant().is_some_and(|apart| apart != 0);
            if length.as_ref().is_some_and(differ) {
                let problem = format!("`{}` is {size} long, the one before it is not", value.name);
                return Err(Stop::Mismatch(self.fail(node, problem)));
            }
            length.get_or_insert(size);
        }
        let length = length.unwrap_or_default();
        let states = all[..carried].to_vec();
        let body = self.body(node, graph, all)?;
        if body.results.len() < carried || body.results.len() != node.output.len() {
            let (inside, outside) = (body.results.len(), node.output.len());
            let problem = format!("it carries {carried} values and has {outside} results; its body has {inside}");
            return Err(self.fail(node, problem).into());
        }
        let mut given = body.results.into_iter();
        let mut results = Vec::with_capacity(node.output.len());
        for state in &states {
            let after = given.next();
            results.push(self.carried(node, state, after)?);
        }
        for (index, scanned) in given.enumerate() {
            let mut shape = scanned.shape;
            let axis = axes("scan_output_axes").get(index).copied().unwrap_or(0);
            let Some(axis) = place(axis, shape.len() + 1) else {
                return Err(self.fail(node, format!("its result {} has no axis {axis}", carried + index)).into());
            };
            shape.insert(axis, Size::Exact(length.clone()));
            results.push(Given { dtype: scanned.dtype, shape, known: None });
        }
        let work = Work { flops: body.work.flops * length, inside_bytes: body.work.inside_bytes + held(&results) };
        Ok(Body { results, work })
    }

    /// Operands of a Loop or Scan as values of its body, of unknown contents.
    fn given(&self, node: &onnx::NodeProto, inputs: &[Option<ValueId>]) -> Result<Vec<Value>, Stop> {
        let value = |id: &Option<ValueId>| match id {
            Some(id) => Ok(Value { content: Content::Computed, ..self.graph.value(*id).clone() }),
            None => Err(self.fail(node, "one of its operands is absent".to_owned()).into()),
        };
        inputs.iter().map(value).collect()
    }

    /// A value that a body is given and gives back: its type and shape stay.
    fn carried(&mut self, node: &onnx::NodeProto, before: &Value, after: Option<Given>) -> Result<Given, Stop> {
        let shape: Vec<Size> = before.shape.iter().cloned().map(Size::Exact).collect();
        let Some(after) = after else {
            return Err(self.fail(node, format!("its body does not give `{}` back", before.name)).into());
        };
        let apart = |(a, b): (&Size, &Expr)| match a {
            Size::Exact(a) => (a - b).as_constant() != Some(0),
            Size::Data(_) => false,
        };
        if after.dtype != before.dtype
            || after.shape.len() != before.shape.len()
            || after.shape.iter().zip(&before.shape).any(apart)
        {
            let (from, to) = (format!("{:?} {}", before.dtype, show(&before.shape)), after.show());
            let what = format!(
                "{} (node `{}`), in which `{}` changes from {from} to {:?} {to} in one turn,",
                node.op_type,
                node_name(node),
                before.name,
                after.dtype
            );
            return Err(ImportError::Unsupported { what }.into());
        }
        if after.shape.iter().any(|size| matches!(size, Size::Data(_))) {
            let note =
                format!("`{}` is taken to keep its shape {} from turn to turn", before.name, show(&before.shape));
            self.note(node, note);
        }
        Ok(Given { dtype: before.dtype, shape, known: None })
    }

    /// Results with each size that the data decide as the file declares it, or else as a dim.
    fn settled(&mut self, node: &onnx::NodeProto, given: Vec<Given>, shown: &[String]) -> Result<Vec<Out>, Stop> {
        let mut outs = Vec::with_capacity(given.len());
        for ((result, name), shown) in given.into_iter().zip(&node.output).zip(shown) {
            let declared = self.declared(name).and_then(|port| port.shape);
            let mut shape = Vec::with_capacity(result.shape.len());
            for (axis, size) in result.shape.iter().enumerate() {
                // A number is meant; names of dims are given loosely.
                let declared = declared.as_ref().filter(|d| d.len() == result.shape.len()).map(|d| &d[axis]);
                let declared = declared.filter(|size| size.as_constant().is_some()).cloned();
                shape.push(match size {
                    Size::Exact(size) => size.clone(),
                    Size::Data(_) if declared.is_some() => {
                        let size = declared.unwrap_or_default();
                        self.note(
                            node,
                            format!("axis {axis} of `{name}` depends on data; the declared size {size} is taken"),
                        );
                        size
                    }
                    Size::Data(bound) if bound.is_overflow() => {
                        let problem = format!(
                            "how often it runs is computed at run time, so the size of `{name}` is not known; \
                             declare its shape, or set the input that decides it"
                        );
                        return Err(Stop::Unknown(self.fail(node, problem)));
                    }
                    Size::Data(bound) => {
                        let dim = format!("{shown}:{axis}");
                        self.graph.data_dims.push((dim.clone(), bound.clone()));
                        Expr::dim(&dim)
                    }
                });
            }
            outs.push(Out { known: result.known, ..Out::new(result.dtype, shape) });
        }
        Ok(outs)
    }

    /// Results as declared, where bodies do not say what they are.
    fn all_declared(&mut self, node: &onnx::NodeProto, why: ImportError) -> Result<Vec<Out>, Stop> {
        let mut outs = Vec::with_capacity(node.output.len());
        for output in &node.output {
            match self.declared(output).map(|port| (port.dtype, port.shape)) {
                Some((Some(dtype), Some(shape))) => {
                    let shape: Vec<Expr> = shape.iter().map(|size| self.settle(size)).collect();
                    outs.push(Out::new(dtype, shape));
                }
                _ if output.is_empty() => outs.push(Out::new(DType::F32, [])),
                _ => return Err(Stop::Unknown(why)),
            }
        }
        let shapes: Vec<String> = outs.iter().map(|out| show(&out.shape)).collect();
        self.note(node, format!("{why}; the declared shapes {} are taken", shapes.join(", ")));
        Ok(outs)
    }

    fn note(&mut self, node: &onnx::NodeProto, note: String) {
        self.graph.assumptions.push(format!("{} (node `{}`): {note}", node.op_type, node_name(node)));
    }
}

/// Bytes of a value, each rounded up to a line as the engine's allocator does.
fn bytes(dtype: DType, shape: &[Expr]) -> Expr {
    let bits = Expr::constant(i128::from(dtype.bits().unwrap_or(0)));
    let bits = shape.iter().fold(bits, |all, size| all * size);
    bits.ceil_div(&Expr::constant(512)) * Expr::constant(64)
}

/// Bytes of results that turns of a loop keep beside them: carried values have an old and a new copy, and what turns give
/// is joined at the end. Where nothing bounds the turns, of one.
fn held(results: &[Given]) -> Expr {
    let one = |given: &Given| {
        let axis = |size: &Size| if size.bound().is_overflow() { Expr::constant(1) } else { size.bound().clone() };
        bytes(given.dtype, &given.shape.iter().map(axis).collect::<Vec<_>>())
    };
    results.iter().map(one).fold(Expr::constant(0), |all, one| all + one) * Expr::constant(2)
}

/// A size outside of a body: dims that only data inside decide are bounded.
fn leave(size: Expr, inside: &[(String, Expr)]) -> Size {
    if inside.is_empty() || size.as_constant().is_some() {
        return Size::Exact(size);
    }
    let names = size.dims();
    if !inside.iter().any(|(name, _)| names.contains(name)) {
        return Size::Exact(size);
    }
    // A later dim's bound may hold earlier ones. Sizes rise or fall with a dim, so its ends bound them.
    let with = |size: &Expr, name: &str, to: &Expr| size.substitute(&|n| (n == name).then(|| to.clone()));
    let bound = inside
        .iter()
        .rev()
        .fold(size, |size, (name, bound)| with(&size, name, bound).max(&with(&size, name, &Expr::constant(0))));
    Size::Data(bound)
}

fn place(axis: i64, rank: usize) -> Option<usize> {
    let rank_signed = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis.checked_add(rank_signed)? } else { axis }).ok().filter(|axis| *axis < rank)
}

fn rank_of(info: &onnx::ValueInfoProto) -> usize {
    match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(onnx::type_proto::Value::TensorType(tensor)) => tensor.shape.as_ref().map_or(0, |shape| shape.dim.len()),
        _ => 0,
    }
}

fn is_constant(node: &onnx::NodeProto) -> bool {
    node.op_type == "Constant" && is_standard(&node.domain)
}

fn is_large(tensor: &onnx::TensorProto) -> bool {
    let raw = tensor.raw_data.len() + tensor.float_data.len() + tensor.double_data.len();
    let lists = 8 * (tensor.int64_data.len() + tensor.uint64_data.len()) + 4 * tensor.int32_data.len();
    tensor.data_location == 1 || raw + lists > INSIDE_BYTES_MAX
}

/// Refuses what no body may hold, before any of it is read.
fn refuse(graph: &onnx::GraphProto) -> Result<(), ImportError> {
    let infos = graph.input.iter().chain(&graph.output);
    let not_tensor = |info: &&onnx::ValueInfoProto| {
        use onnx::type_proto::Value::{SparseTensorType, TensorType};
        let kind = info.r#type.as_ref().and_then(|t| t.value.as_ref());
        kind.is_some_and(|kind| !matches!(kind, TensorType(_) | SparseTensorType(_)))
    };
    if let Some(info) = infos.into_iter().find(not_tensor) {
        let what = format!("`{}` in a graph of a node, a sequence or optional value,", info.name);
        return Err(ImportError::Unsupported { what });
    }
    for node in &graph.node {
        if is_standard(&node.domain) && names::is_no_tensor_operator(&node.op_type) {
            return Err(ImportError::sequence(node));
        }
        for (_, body) in bodies(node) {
            refuse(body)?;
        }
    }
    Ok(())
}
