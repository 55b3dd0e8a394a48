//! Slices of stored matrices: rows or columns that are read from the file as they lie there.
//!
//! Reads:    the graph.
//! Decides:  which Slices are no work for a run, because a weight of its own can be read in their place.
//! Promises: only whole rows or whole columns, of matrices that no running operator reads whole beside them: those bytes
//!           would come twice.
//! Why:      a part of a weight needs less room than all of it, and a file gives any part.

use crate::lower::EMBEDDED_BYTES_MAX;
use berth_ir::graph::{Content, Graph, Op, OpId, ValueId};
use berth_ir::program::{Strip, Transposed};
use std::collections::{HashMap, HashSet};

/// Some rows (axis 0) or columns (axis 1) of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub axis: usize,
    pub from: u64,
    pub count: u64,
}

/// A matrix in a file, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub rows: u64,
    pub columns: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element: u64,
}

/// Where a part of a matrix lies, from the matrix's first byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub offset: u64,
    /// Where its rows lie apart.
    pub strip: Option<Strip>,
    /// The part, as a matrix of which the transpose can be wanted.
    pub turned: Transposed,
}

impl Matrix {
    /// The matrix of a stored value; nothing for other values.
    pub fn of(graph: &Graph, id: ValueId) -> Option<Matrix> {
        let value = graph.value(id);
        let [rows, columns] = value.shape.as_slice() else { return None };
        let size = |axis: &berth_ir::Expr| axis.as_constant().and_then(|n| u64::try_from(n).ok());
        let element = value.dtype.bits().filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
        let element = element.filter(|bytes| matches!(bytes, 1 | 2 | 4 | 8))?;
        let stored = matches!(value.content, Content::Stored(_));
        stored.then_some(Matrix { rows: size(rows)?, columns: size(columns)?, element })
    }

    pub fn transpose(self) -> Matrix {
        Matrix { rows: self.columns, columns: self.rows, ..self }
    }

    /// Where some of its rows or columns lie.
    pub fn part(self, cut: Cut) -> Part {
        let Matrix { rows, columns, element } = self;
        if cut.axis == 0 {
            let turned = Transposed { rows: cut.count, columns, element };
            return Part { offset: cut.from * columns * element, strip: None, turned };
        }
        let strip = Strip { rows, bytes: cut.count * element, pitch: columns * element };
        let turned = Transposed { rows, columns: cut.count, element };
        Part { offset: cut.from * element, strip: Some(strip).filter(|s| s.bytes < s.pitch), turned }
    }
}

/// The stored matrices of which operators take rows or columns, by the value that holds them.
pub(crate) fn cuts(graph: &Graph, live: &[OpId]) -> HashMap<ValueId, (ValueId, Cut)> {
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let (mut found, mut whole) = (Vec::new(), HashSet::new());
    for op in live.iter().map(|id| graph.op(*id)) {
        match cut(graph, op) {
            Some((result, source, cut)) if !outputs.contains(&result) => found.push((result, (source, cut))),
            // A table is read by rows, whether they are cut from it or not.
            _ if op.kind == "Gather" => {}
            _ => whole.extend(op.reads()),
        }
    }
    found.retain(|(_, (source, _))| !whole.contains(source));
    found.into_iter().collect()
}

/// What a Slice takes of a stored matrix: its result, the matrix, the rows or columns.
fn cut(graph: &Graph, op: &Op) -> Option<(ValueId, ValueId, Cut)> {
    let standard = matches!(op.domain.as_str(), "" | "ai.onnx") && op.kind == "Slice";
    let (source, result) = ((*op.inputs.first()?)?, (*op.outputs.first()?)?);
    let matrix = Matrix::of(graph, source).filter(|_| standard)?;
    let one = |n: usize| match op.inputs.get(n).copied().flatten().map(|id| &graph.value(id).content) {
        Some(Content::Known(list)) if list.len() == 1 => list[0].as_constant(),
        _ => None,
    };
    let stepped = op.inputs.get(4).is_some_and(|input| input.is_some()) && one(4) != Some(1);
    let axis = match one(3)? {
        0 | -2 => 0,
        1 | -1 => 1,
        _ => return None,
    };
    let size = [matrix.rows, matrix.columns][axis];
    let from = one(1).map(|at| if at < 0 { at + i128::from(size) } else { at })?;
    let from = u64::try_from(from).ok()?;
    let value = graph.value(result);
    let count = value.shape.get(axis)?.as_constant().and_then(|n| u64::try_from(n).ok())?;
    let other = matrix.rows.checked_mul(matrix.columns)? / size.max(1);
    let bytes = count.checked_mul(other)?.checked_mul(matrix.element)?;
    let fits = from.checked_add(count)? <= size && bytes > EMBEDDED_BYTES_MAX;
    let computed = matches!(value.content, Content::Computed) && value.dtype == graph.value(source).dtype;
    (fits && computed && !stepped).then_some((result, source, Cut { axis, from, count }))
}
