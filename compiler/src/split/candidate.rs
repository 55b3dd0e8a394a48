//! Operators that can be split: what they read, where they may be cut, what the pieces would hold.

use super::PIECES_MAX;
use super::bits::{BLOCK, Product, blocks_min};
use crate::lower::Sizes;
use crate::slice::Matrix;
use berth_ir::DType;
use berth_ir::graph::{Attribute, Content, Graph, Op, ValueId};
use berth_ir::program::DimRange;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Columns of a product.
    Product {
        /// Axis of the stored matrix along which the columns of the product lie.
        axis: usize,
        /// Whether a Transpose stands between the matrix and the product.
        turned: bool,
    },
    /// Rows of a table.
    Table,
}

/// An operator that can be split.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Its index in the graph.
    pub op: usize,
    pub form: Form,
    /// The stored matrix.
    pub matrix: ValueId,
    /// Columns or rows that are shared out among the pieces.
    pub units: u64,
    /// Units that stay together, and how many such blocks a piece has at least.
    block: u64,
    blocks_min: u64,
    /// Bytes that the operator holds: in all, what every piece holds too, and for each unit.
    held: u64,
    fixed: u64,
    unit: u64,
    /// Bytes that putting the pieces together holds.
    join: u64,
}

impl Candidate {
    /// The operator's name.
    pub fn name<'a>(&self, graph: &'a Graph) -> &'a str {
        &graph.ops[self.op].name
    }

    /// Whether each piece lies in one range of the stored matrix.
    pub fn is_contiguous(&self) -> bool {
        match self.form {
            Form::Product { axis, .. } => axis == 0,
            Form::Table => true,
        }
    }

    /// The fewest pieces that need no more room each, or those that need least where none are small enough; nothing where
    /// it needs no cut, or none helps.
    pub fn pieces(&self, room: u64) -> Option<u64> {
        if self.held <= room {
            return None;
        }
        let all = || (2..=self.most()).map(|pieces| (self.holds(pieces), pieces));
        let enough = all().find(|(holds, _)| *holds <= room);
        enough.or_else(|| all().min()).filter(|(holds, _)| *holds < self.held).map(|(_, pieces)| pieces)
    }

    /// The least that it can be made to hold.
    pub fn least(&self) -> u64 {
        (2..=self.most()).map(|pieces| self.holds(pieces)).fold(self.held, u64::min)
    }

    /// Where the pieces begin, and where the last one ends.
    pub fn bounds(&self, pieces: u64) -> Vec<u64> {
        let blocks = self.units.div_ceil(self.block);
        let at = |n: u64| (u128::from(blocks) * u128::from(n) / u128::from(pieces)) as u64 * self.block;
        (0..=pieces).map(|n| at(n).min(self.units)).collect()
    }

    /// Pieces at most.
    fn most(&self) -> u64 {
        (self.units.div_ceil(self.block) / self.blocks_min.max(1)).min(PIECES_MAX)
    }

    /// The most that a piece or what joins them holds. Scratch is taken to be shared out as operands are.
    fn holds(&self, pieces: u64) -> u64 {
        let plain = |units: u64| u128::from(self.fixed) + u128::from(units) * u128::from(self.unit);
        let largest = self.units.div_ceil(self.block).div_ceil(pieces) * self.block;
        let piece = plain(largest.min(self.units)) * u128::from(self.held) / plain(self.units).max(1);
        self.join.max(u64::try_from(piece).unwrap_or(u64::MAX))
    }
}

/// All operators of a graph that can be split, in its order. `held` has what tasks hold; what is no task is not split.
pub(super) fn candidates(
    graph: &Graph,
    dims: &BTreeMap<String, DimRange>,
    held: &HashMap<&str, u64>,
    threads: u64,
) -> Vec<Candidate> {
    let opset = graph.opsets.iter().find(|(domain, _)| matches!(domain.as_str(), "" | "ai.onnx")).map_or(0, |o| o.1);
    let mut makers = HashMap::new();
    for op in &graph.ops {
        op.outputs.iter().flatten().for_each(|v| {
            makers.insert(*v, op);
        });
    }
    let outputs = graph.outputs.iter().copied().collect();
    let finder = Finder { graph, sizes: Sizes::new(graph, dims), makers, outputs, opset, threads };
    let ops = graph.ops.iter().enumerate();
    ops.filter_map(|(n, op)| finder.candidate(n, op, *held.get(op.name.as_str())?)).collect()
}

struct Finder<'a> {
    graph: &'a Graph,
    sizes: Sizes,
    makers: HashMap<ValueId, &'a Op>,
    outputs: HashSet<ValueId>,
    opset: i64,
    threads: u64,
}

/// Types whose products are summed as `bits` says: narrow ones are widened to the first before.
const SUMMED: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
/// Types between which the engine can choose element by element.
const CHOSEN: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::F64, DType::I32, DType::I64];

impl Finder<'_> {
    fn candidate(&self, n: usize, op: &Op, held: u64) -> Option<Candidate> {
        if !matches!(op.domain.as_str(), "" | "ai.onnx") || op.outputs.len() != 1 {
            return None;
        }
        match op.kind.as_str() {
            "MatMul" => self.matmul(n, op, held),
            "Gemm" => self.gemm(n, op, held),
            "Gather" => self.gather(n, op, held),
            _ => None,
        }
    }

    fn matmul(&self, n: usize, op: &Op, held: u64) -> Option<Candidate> {
        let (left, right) = ((*op.inputs.first()?)?, (*op.inputs.get(1)?)?);
        let (matrix, turned) = self.stored(right)?;
        let vector = self.graph.value(left).shape.split_last()?.1.iter().all(|axis| axis.as_constant() == Some(1));
        let form = Form::Product { axis: usize::from(!turned), turned };
        self.product(n, op, held, (matrix, form, vector))
    }

    fn gemm(&self, n: usize, op: &Op, held: u64) -> Option<Candidate> {
        let (left, right) = ((*op.inputs.first()?)?, (*op.inputs.get(1)?)?);
        let (matrix, turned) = self.stored(right)?;
        let int = |name: &str| matches!(attribute(op, name), Some(Attribute::Int(n)) if *n != 0);
        let scaled = |name: &str| matches!(attribute(op, name), Some(Attribute::Float(f)) if *f != 1.0);
        let one = self.graph.value(left).shape.first()?.as_constant() == Some(1);
        let vector = one && !int("transA") && !scaled("alpha") && !scaled("beta");
        // A transposed operand is as good as a Transpose before it.
        let axis = usize::from(turned == int("transB"));
        self.product(n, op, held, (matrix, Form::Product { axis, turned }, vector))
    }

    fn product(
        &self,
        n: usize,
        op: &Op,
        held: u64,
        (matrix, form, vector): (ValueId, Form, bool),
    ) -> Option<Candidate> {
        let (left, result) = ((*op.inputs.first()?)?, (*op.outputs.first()?)?);
        let Form::Product { axis, .. } = form else { return None };
        let of = Matrix::of(self.graph, matrix)?;
        let (units, depth) = if axis == 0 { (of.rows, of.columns) } else { (of.columns, of.rows) };
        let value = self.graph.value(result);
        let typed = SUMMED.contains(&value.dtype) && self.graph.value(matrix).dtype == value.dtype;
        let known = value.shape.last()?.as_constant() == Some(i128::from(units)) && units > 0;
        // Slices with their bounds as operands.
        if !typed || !known || self.opset < 10 {
            return None;
        }
        let out = self.bytes(result)?;
        let rows = out / units / of.element;
        let product = Product { rows, vector, depth };
        let unit = (depth.checked_mul(of.element)?).checked_add(out / units)?;
        Some(Candidate {
            op: n,
            form,
            matrix,
            units,
            block: BLOCK,
            blocks_min: blocks_min(product, self.threads),
            held,
            fixed: self.bytes(left)?,
            unit,
            join: out.checked_mul(2)?,
        })
    }

    fn gather(&self, n: usize, op: &Op, held: u64) -> Option<Candidate> {
        let (matrix, places) = ((*op.inputs.first()?)?, (*op.inputs.get(1)?)?);
        let result = (*op.outputs.first()?)?;
        let of = Matrix::of(self.graph, matrix)?;
        let first = matches!(attribute(op, "axis"), None | Some(Attribute::Int(0)));
        let places_type = self.graph.value(places).dtype;
        let computed = matches!(self.graph.value(places).content, Content::Computed);
        let typed = CHOSEN.contains(&self.graph.value(matrix).dtype) && matches!(places_type, DType::I64 | DType::I32);
        // Clip of integers, Unsqueeze with its axes as an operand.
        if !first || !computed || !typed || self.opset < 13 {
            return None;
        }
        let (out, index) = (self.bytes(result)?, self.bytes(places)?);
        Some(Candidate {
            op: n,
            form: Form::Table,
            matrix,
            units: of.rows,
            block: 1,
            blocks_min: 1,
            held,
            fixed: index.checked_add(out)?,
            unit: of.columns.checked_mul(of.element)?,
            // Two parts, what is chosen of them, and the copies that the engine makes to choose.
            join: out.checked_mul(5)?.checked_add(index)?,
        })
    }

    /// The stored matrix that a value is, or that it is the transpose of.
    fn stored(&self, id: ValueId) -> Option<(ValueId, bool)> {
        if Matrix::of(self.graph, id).is_some() {
            return Some((id, false));
        }
        let op = self.makers.get(&id).filter(|_| !self.outputs.contains(&id))?;
        let standard = matches!(op.domain.as_str(), "" | "ai.onnx") && op.kind == "Transpose";
        let swaps = op.attributes.iter().all(|(name, a)| name != "perm" || *a == Attribute::Ints(vec![1, 0]));
        let source = (*op.inputs.first()?)?;
        (standard && swaps && Matrix::of(self.graph, source).is_some()).then_some((source, true))
    }

    /// The most bytes that a value can have.
    fn bytes(&self, id: ValueId) -> Option<u64> {
        let value = self.graph.value(id);
        let axes = value.shape.iter().map(|axis| self.sizes.most(axis));
        value.dtype.bytes(axes.collect::<Option<Vec<u64>>>()?.into_iter().try_fold(1, u64::checked_mul)?)
    }
}

fn attribute<'a>(op: &'a Op, name: &str) -> Option<&'a Attribute> {
    op.attributes.iter().find(|(n, _)| n == name).map(|(_, a)| a)
}
