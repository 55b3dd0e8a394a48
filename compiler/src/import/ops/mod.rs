//! What berth knows of each operator: one row each.
//!
//! A row says how many operands there are, what the results are, what the operator costs, and what memory rights it
//! has: whether its result may be the same bytes as an operand (a view, in place), and whether it reads all of an
//! operand or rows of it. Rows are data; the rules beside them are plain functions from operands to results.

mod attention;
mod contrib;
mod control;
mod elementwise;
mod matmul;
mod movement;
mod norm;
mod quantised;
mod reduction;

use super::floats::{self, Float};
use super::fold;
use super::limits::{FLOATS_MAX, KNOWN_MAX};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Attribute, Content, Value};
use bytes::Bytes;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The contrib domain of ONNX Runtime.
pub const MICROSOFT: &str = "com.microsoft";

/// What is known of one operator type.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Domain; empty for the standard one.
    pub domain: &'static str,
    /// Operator type.
    pub kind: &'static str,
    /// Least and most operands; absent trailing ones do not count.
    pub inputs: (u8, u8),
    /// Least and most results. A result beyond the least is optional: it is not computed where nobody reads it.
    pub outputs: (u8, u8),
    /// Optional results 1 and 2 come together or not at all (key and value).
    pub paired: bool,
    /// The first result is the first operand with another shape: the same bytes in the same order.
    pub view: bool,
    /// The first result may take the place of an operand of equal type and shape: each element is read before it is
    /// written and not after.
    pub in_place: bool,
    /// This operand is read by rows along its first axis, not whole.
    pub rows_of: Option<u8>,
    /// Elements of the results are elements of the operands as they are.
    pub moves: bool,
    /// Arithmetic.
    pub flops: Flops,
    /// Types and shapes of the results.
    pub rule: Rule,
}

/// Types and shapes of the results from those of the operands.
pub type Rule = fn(&Node) -> Result<Vec<Out>, Problem>;

/// How much arithmetic an operator does; a multiply-add counts as two.
#[derive(Clone, Copy, Debug)]
pub enum Flops {
    /// None: it moves bytes at most.
    None,
    /// So many for each element of the first result.
    PerOutput(u32),
    /// So many for each element of the first operand.
    PerInput(u32),
    /// By a function of operands and results.
    Rule(fn(&Node, &[Out]) -> Expr),
}

const fn row(kind: &'static str, inputs: (u8, u8), outputs: (u8, u8), flops: Flops, rule: Rule) -> Row {
    let (domain, paired, view, in_place, rows_of, moves) = ("", false, false, false, None, false);
    Row { domain, kind, inputs, outputs, paired, view, in_place, rows_of, moves, flops, rule }
}

impl Row {
    const fn microsoft(self) -> Row {
        Row { domain: MICROSOFT, ..self }
    }
    const fn preview(self) -> Row {
        Row { domain: "ai.onnx.preview", ..self }
    }
    const fn view(self) -> Row {
        Row { view: true, ..self }
    }
    const fn in_place(self) -> Row {
        Row { in_place: true, ..self }
    }
    const fn paired(self) -> Row {
        Row { paired: true, ..self }
    }
    const fn rows_of(self, input: u8) -> Row {
        Row { rows_of: Some(input), ..self }
    }
    const fn moves(self) -> Row {
        Row { moves: true, ..self }
    }

    /// The results of an operator of this type.
    pub fn results(&self, node: &Node) -> Result<Vec<Out>, Problem> {
        let mut outs = (self.rule)(node)?;
        if self.moves && (0..node.inputs.len()).any(|i| node.has_floats(i)) {
            self.move_floats(node, &mut outs);
        }
        Ok(outs)
    }

    /// Known floats move as their places in a list do: the rule moves integers.
    fn move_floats(&self, node: &Node, outs: &mut [Out]) {
        let mut list: Vec<Float> = Vec::new();
        let mut values: Vec<Option<Value>> = Vec::with_capacity(node.inputs.len());
        for (index, input) in node.inputs.iter().enumerate() {
            let Some(known) = node.floats_of(index) else {
                values.push(input.cloned());
                continue;
            };
            let places = (list.len()..list.len() + known.len()).map(|place| Expr::constant(place as u64)).collect();
            list.extend_from_slice(&known);
            let shape = node.inputs[index].map_or(Vec::new(), |value| value.shape.clone());
            let content = Content::Known(places);
            values.push(Some(Value { name: String::new(), dtype: DType::I64, shape, content }));
        }
        let places = Node {
            inputs: values.iter().map(Option::as_ref).collect(),
            data: Vec::new(),
            computed: Vec::new(),
            // What this would say of dims has been said.
            free: &[],
            notes: RefCell::default(),
            fresh: RefCell::default(),
            ..*node
        };
        let Ok(moved) = (self.rule)(&places) else { return };
        for (out, places) in outs.iter_mut().zip(moved) {
            let at = |place: &Expr| list.get(usize::try_from(place.as_constant()?).ok()?).cloned();
            let floats = places.known.filter(|_| places.dtype == DType::I64 && out.dtype != DType::I64);
            *out = out.clone().floats(floats.and_then(|places| places.iter().map(at).collect()));
        }
    }
}

/// Any number of operands or results.
const MANY: u8 = u8::MAX;

/// All rows, by family.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    let families: [&'static [Row]; 9] = [
        elementwise::ROWS,
        movement::ROWS,
        reduction::ROWS,
        matmul::ROWS,
        norm::ROWS,
        attention::ROWS,
        quantised::ROWS,
        control::ROWS,
        contrib::ROWS,
    ];
    families.into_iter().flatten()
}

/// The row of an operator type.
pub fn row_of(domain: &str, kind: &str) -> Option<&'static Row> {
    static TABLE: OnceLock<HashMap<(&str, &str), &Row>> = OnceLock::new();
    let table = TABLE.get_or_init(|| rows().map(|row| ((row.domain, row.kind), row)).collect());
    let domain = if domain == "ai.onnx" { "" } else { domain };
    table.get(&(domain, kind)).copied()
}

/// One result of an operator.
#[derive(Clone, Debug)]
pub struct Out {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Vec<Expr>,
    /// Each element, where the whole is a small known integer tensor.
    pub known: Option<Vec<Expr>>,
    /// Each element, where the whole is a small known float tensor.
    pub floats: Option<Vec<Float>>,
}

impl Out {
    /// A result of which nothing more is known.
    pub fn new(dtype: DType, shape: impl Into<Vec<Expr>>) -> Out {
        Out { dtype, shape: shape.into(), known: None, floats: None }
    }

    /// The same with these contents, if they are integers and as many as the shape says.
    fn known(mut self, known: Option<Vec<Expr>>) -> Out {
        let integers = matches!(self.dtype, DType::I64 | DType::I32 | DType::Bool);
        let elements = constant_shape(&self.shape).and_then(|s| product(&s));
        self.known = known.filter(|k| {
            integers
                && Some(k.len()) == elements
                && k.len() as u64 <= KNOWN_MAX
                && k.iter().all(|e| fold::fits(e, self.dtype))
        });
        self
    }

    /// The same with these contents, if they are as many as the shape says.
    fn floats(mut self, floats: Option<Vec<Float>>) -> Out {
        let elements = constant_shape(&self.shape).and_then(|s| product(&s));
        self.floats = floats.filter(|f| Some(f.len()) == elements && f.len() <= FLOATS_MAX);
        self
    }
}

/// Why a rule gives no results.
#[derive(Clone, Debug)]
pub enum Problem {
    /// The operands contradict the operator.
    Wrong(String),
    /// Two sizes differ that must be equal; if dims are bound, they may be the reason.
    Mismatch(String),
    /// The shape depends on something that is not known here.
    Unknown(String),
    /// The same, but no larger than these results, in dims that the data decide.
    Bounded(String, Vec<Out>),
    /// The operator needs this dim to be that expression.
    Relation {
        /// The dim.
        dim: String,
        /// What it is equal to.
        equals: Expr,
    },
}

fn wrong<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Wrong(what.into()))
}

fn unknown<T>(what: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Unknown(what.into()))
}

/// An operator as its rule sees it.
pub struct Node<'a> {
    /// Operator type.
    pub kind: &'a str,
    /// Version of its operator set.
    pub opset: i64,
    /// The operands; `None` where absent.
    pub inputs: Vec<Option<&'a Value>>,
    /// The bytes of small constant operands of floats.
    pub data: Vec<Option<Bytes>>,
    /// The elements of small operands of floats that were computed from known ones.
    pub computed: Vec<Option<&'a [Float]>>,
    /// Names of the results; empty where absent.
    pub outputs: &'a [String],
    /// Attributes.
    pub attributes: &'a [(String, Attribute)],
    /// Dims of the model's inputs that are not bound.
    pub free: &'a [String],
    /// What a rule had to assume.
    pub notes: RefCell<Vec<String>>,
    /// Dims that only the data decide, with their upper bounds.
    pub fresh: RefCell<Vec<(String, Expr)>>,
}

impl<'a> Node<'a> {
    fn given(&self, index: usize) -> Option<&'a Value> {
        self.inputs.get(index).copied().flatten()
    }

    fn input(&self, index: usize) -> Result<&'a Value, Problem> {
        match self.given(index) {
            Some(value) => Ok(value),
            None => wrong(format!("operand {index} is absent")),
        }
    }

    fn shape(&self, index: usize) -> Result<&'a [Expr], Problem> {
        Ok(&self.input(index)?.shape)
    }

    /// The shape, which must have this many axes.
    fn shape_of_rank(&self, index: usize, rank: usize) -> Result<&'a [Expr], Problem> {
        let value = self.input(index)?;
        if value.shape.len() != rank {
            let has = show(&value.shape);
            return wrong(format!("`{}` {has} has {} axes, {rank} are needed", value.name, value.shape.len()));
        }
        Ok(&value.shape)
    }

    fn dtype(&self, index: usize) -> Result<DType, Problem> {
        Ok(self.input(index)?.dtype)
    }

    fn known(&self, index: usize) -> Option<&'a [Expr]> {
        match &self.given(index)?.content {
            berth_ir::graph::Content::Known(elements) => Some(elements),
            _ => None,
        }
    }

    /// The known elements of an operand that decides the shape.
    fn elements(&self, index: usize, what: &str) -> Result<&'a [Expr], Problem> {
        let value = self.input(index)?;
        match self.known(index) {
            Some(elements) => Ok(elements),
            None => unknown(format!("{what} `{}` is computed at run time", value.name)),
        }
    }

    /// The same, as numbers.
    fn integers(&self, index: usize, what: &str) -> Result<Vec<i64>, Problem> {
        let elements = self.elements(index, what)?;
        let numbers = elements.iter().map(|e| i64::try_from(e.as_constant()?).ok());
        match numbers.collect() {
            Some(numbers) => Ok(numbers),
            None => unknown(format!("{what} `{}` depends on dims", self.input(index)?.name)),
        }
    }

    /// Whether the elements of an operand are known floats.
    fn has_floats(&self, index: usize) -> bool {
        self.computed.get(index).is_some_and(Option::is_some) || self.data.get(index).is_some_and(Option::is_some)
    }

    /// The elements of small known floats.
    fn floats_of(&self, index: usize) -> Option<Cow<'a, [Float]>> {
        if let Some(floats) = self.computed.get(index).copied().flatten() {
            return Some(Cow::Borrowed(floats));
        }
        let data = self.data.get(index)?.as_ref()?;
        let dtype = self.given(index)?.dtype;
        Some(data.chunks_exact(floats::width(dtype)?).map(|c| Float::Number(floats::number(dtype, c))).collect())
    }

    /// The same, as numbers.
    fn numbers_of(&self, index: usize) -> Option<Vec<f64>> {
        let number = |float: &Float| match float {
            Float::Number(number) => Some(*number),
            Float::Size { .. } => None,
        };
        self.floats_of(index)?.iter().map(number).collect()
    }

    fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        match self.attribute(name) {
            Some(Attribute::Int(value)) => *value,
            _ => default,
        }
    }

    fn ints(&self, name: &str) -> Option<&'a [i64]> {
        match self.attribute(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> &'a str {
        match self.attribute(name) {
            Some(Attribute::String(bytes)) => std::str::from_utf8(bytes).unwrap_or(""),
            _ => "",
        }
    }

    fn floats(&self, name: &str) -> Option<&'a [f32]> {
        match self.attribute(name) {
            Some(Attribute::Floats(values)) => Some(values),
            _ => None,
        }
    }

    /// The tensor in an attribute.
    fn tensor(&self, name: &str) -> Option<super::onnx::TensorProto> {
        match self.attribute(name) {
            Some(Attribute::Message(bytes)) => {
                let message: super::onnx::AttributeProto = prost::Message::decode(bytes.clone()).ok()?;
                message.t.map(|tensor| *tensor)
            }
            _ => None,
        }
    }

    /// An element type in an attribute.
    fn type_attribute(&self, name: &str, default: DType) -> Result<DType, Problem> {
        match self.attribute(name) {
            Some(Attribute::Int(0)) | None => Ok(default),
            Some(Attribute::Int(number)) => match i32::try_from(*number).ok().and_then(super::dtype_from_onnx) {
                Some(dtype) => Ok(dtype),
                None => wrong(format!("attribute `{name}` names element type {number}, which is not known")),
            },
            Some(_) => wrong(format!("attribute `{name}` is no integer")),
        }
    }

    fn note(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }

    /// A dim that only the data decide, at most `bound`.
    fn fresh(&self, output: usize, axis: usize, bound: Expr) -> Expr {
        let name = format!("{}:{axis}", self.outputs.get(output).map_or("", String::as_str));
        self.fresh.borrow_mut().push((name.clone(), bound));
        Expr::dim(&name)
    }

    /// Two sizes that the operator needs to be equal: that size.
    fn same(&self, a: &Expr, b: &Expr, what: impl FnOnce() -> String) -> Result<Expr, Problem> {
        if a == b {
            return Ok(a.clone());
        }
        let apart = a - b;
        if let Some(difference) = apart.as_constant()
            && difference != 0
        {
            return Err(Problem::Mismatch(format!("{}: {a} and {b}", what())));
        }
        // The dim that stands furthest back in the inputs is the derived one, unless it would be a difference.
        let mut ways: Vec<(String, Expr)> = apart.isolate();
        ways.retain(|(dim, _)| self.free.contains(dim));
        ways.sort_by_key(|(dim, equals)| {
            (!equals.is_nonnegative(), std::cmp::Reverse(self.free.iter().position(|f| f == dim)))
        });
        if let Some((dim, equals)) = ways.into_iter().next() {
            return Err(Problem::Relation { dim, equals });
        }
        self.note(format!("{}: taken as equal: {a} and {b}", what()));
        // The shorter one is nearer to what a person named: `seq`, not `min(128, seq)`.
        let length = |e: &Expr| e.to_string().len();
        Ok(if a.as_constant().is_some() || (b.as_constant().is_none() && length(a) <= length(b)) { a } else { b }
            .clone())
    }

    /// The shape to which operands broadcast.
    fn broadcast(&self, indices: &[usize]) -> Result<Vec<Expr>, Problem> {
        let operands: Vec<&Value> = indices.iter().filter_map(|i| self.given(*i)).collect();
        let mut shape: Vec<Expr> = Vec::new();
        for value in &operands {
            shape = self.broadcast_shapes(&shape, &value.shape, || {
                let all: Vec<String> = operands.iter().map(|v| format!("`{}` {}", v.name, show(&v.shape))).collect();
                all.join(" and ")
            })?;
        }
        Ok(shape)
    }

    fn broadcast_shapes(&self, a: &[Expr], b: &[Expr], who: impl Fn() -> String) -> Result<Vec<Expr>, Problem> {
        let one = Expr::constant(1);
        let rank = a.len().max(b.len());
        let at = |s: &[Expr], axis: usize| (axis + s.len()).checked_sub(rank).map_or(one.clone(), |i| s[i].clone());
        (0..rank)
            .map(|axis| {
                let (x, y) = (at(a, axis), at(b, axis));
                if x == one || x == y {
                    return Ok(y);
                }
                if y == one {
                    return Ok(x);
                }
                match (x.as_constant(), y.as_constant()) {
                    // A size beside a number other than one is that number or one; the result is the number.
                    (Some(_), None) => Ok(x),
                    (None, Some(_)) => Ok(y),
                    _ => self.same(&x, &y, || format!("{} do not broadcast at axis {axis}", who())),
                }
            })
            .collect()
    }
}

/// A shape for people.
pub fn show(shape: &[Expr]) -> String {
    let dims: Vec<String> = shape.iter().map(Expr::to_string).collect();
    format!("[{}]", dims.join(", "))
}

fn count(shape: &[Expr]) -> Expr {
    shape.iter().fold(Expr::constant(1), |a, b| a * b)
}

fn constant_shape(shape: &[Expr]) -> Option<Vec<usize>> {
    shape.iter().map(|e| usize::try_from(e.as_constant()?).ok()).collect()
}

fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b))
}

/// An axis that may count from the end.
fn axis(axis: i64, rank: usize) -> Result<usize, Problem> {
    let rank_signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let at = if axis < 0 { axis.saturating_add(rank_signed) } else { axis };
    match usize::try_from(at) {
        Ok(at) if at < rank => Ok(at),
        _ => wrong(format!("axis {axis} is outside of {rank} axes")),
    }
}

/// Known elements of a result of `shape` (at most [`KNOWN_MAX`]), each found at a place of a source of `source` shape.
fn pick<T: Clone>(
    shape: &[Expr],
    source: &[Expr],
    elements: Option<&[T]>,
    place: impl Fn(&[usize]) -> Option<Vec<usize>>,
) -> Option<Vec<T>> {
    let (shape, source, elements) = (constant_shape(shape)?, constant_shape(source)?, elements?);
    let total = product(&shape).filter(|n| *n as u64 <= KNOWN_MAX)?;
    let mut picked = Vec::with_capacity(total);
    let mut index = vec![0; shape.len()];
    for _ in 0..total {
        let at = place(&index)?;
        let flat = at
            .iter()
            .zip(&source)
            .try_fold(0usize, |flat, (i, n)| if i < n { flat.checked_mul(*n)?.checked_add(*i) } else { None })?;
        picked.push(elements.get(flat)?.clone());
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Some(picked)
}

/// Known elements of an operand broadcast to a shape.
fn spread<T: Clone>(shape: &[Expr], source: &[Expr], elements: Option<&[T]>) -> Option<Vec<T>> {
    let sizes = constant_shape(source)?;
    pick(shape, source, elements, |index| {
        let from = index.len().checked_sub(sizes.len())?;
        Some(index[from..].iter().zip(&sizes).map(|(i, n)| if *n == 1 { 0 } else { *i }).collect())
    })
}

/// The first operand's type and shape.
fn as_first(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = node.input(0)?;
    Ok(vec![Out::new(first.dtype, first.shape.clone())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operator_has_one_row() {
        let mut seen = std::collections::BTreeSet::new();
        for row in rows() {
            assert!(seen.insert((row.domain, row.kind)), "{}::{} has two rows", row.domain, row.kind);
            assert!(row.inputs.0 <= row.inputs.1 && row.outputs.0 <= row.outputs.1, "{}", row.kind);
            assert!(!row.view || row.inputs.0 >= 1, "{} is a view of nothing", row.kind);
        }
        assert!(seen.len() >= 220, "{} rows", seen.len());
    }
}
