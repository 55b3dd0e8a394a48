//! Writes the pieces of split operators into the graph.
//!
//! Columns of a product are products of columns, put together by a Concat. Of a table each piece has some rows; each is
//! looked up with the places moved and held within it, and what it gives is taken where the places are its own.

use super::candidate::{Candidate, Form};
use crate::rewrite::{Names, plain};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Attribute, Content, Graph, Op, Value, ValueId, Work};
use std::collections::BTreeMap;

/// The graph with candidates in so many pieces.
pub(super) fn put(graph: &Graph, chosen: &[(u64, Candidate)]) -> Graph {
    let by_op: BTreeMap<usize, &(u64, Candidate)> = chosen.iter().map(|c| (c.1.op, c)).collect();
    let mut writer = Writer::new(graph);
    for (n, op) in graph.ops.iter().enumerate() {
        match by_op.get(&n) {
            None => writer.ops.push(op.clone()),
            Some((pieces, candidate)) => writer.pieces(op, candidate, &candidate.bounds(*pieces)),
        }
    }
    Graph { values: writer.values, ops: writer.ops, ..graph.clone() }
}

struct Writer<'a> {
    graph: &'a Graph,
    values: Vec<Value>,
    ops: Vec<Op>,
    value_names: Names,
    op_names: Names,
}

impl Writer<'_> {
    fn new(graph: &Graph) -> Writer<'_> {
        let (mut value_names, mut op_names) = (Names::default(), Names::default());
        graph.values.iter().for_each(|v| {
            value_names.take(&v.name);
        });
        graph.ops.iter().for_each(|op| {
            op_names.take(&op.name);
        });
        Writer { graph, values: graph.values.clone(), ops: Vec::new(), value_names, op_names }
    }

    fn pieces(&mut self, op: &Op, candidate: &Candidate, bounds: &[u64]) {
        match candidate.form {
            Form::Product { axis, turned } => self.product(op, candidate.matrix, (axis, turned), bounds),
            Form::Table => self.table(op, candidate.matrix, bounds),
        }
    }

    fn product(&mut self, op: &Op, matrix: ValueId, (axis, turned): (usize, bool), bounds: &[u64]) {
        let Some(result) = op.outputs[0] else { return };
        let value = self.graph.value(result);
        let last = value.shape.len() - 1;
        let left = op.inputs[0];
        let mut parts = Vec::new();
        for pair in bounds.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let name = |what: &str| format!("{what} columns {from}..{to}");
            let mut right = self.slice(&name(&self.values[matrix.0 as usize].name), matrix, axis, (from, to));
            if turned {
                right = self.transpose(&name(&self.values[matrix.0 as usize].name), right);
            }
            let mut inputs = vec![left, Some(right)];
            if let Some(added) = op.inputs.get(2).copied().flatten() {
                inputs.push(Some(self.added(added, bounds, (from, to))));
            }
            let mut shape = value.shape.clone();
            shape[last] = Expr::constant(to - from);
            let part = self.add(name(&value.name), value.dtype, shape, Content::Computed);
            let flops = op.work.flops.clone() * Expr::constant(to - from);
            let whole = Expr::constant(bounds[bounds.len() - 1]);
            let work = Work { flops: flops.floor_div(&whole), ..op.work.clone() };
            let named = self.op_names.unique(name(&op.name));
            self.ops.push(Op { name: named, inputs, outputs: vec![Some(part)], work, ..op.clone() });
            parts.push(Some(part));
        }
        let axis = vec![("axis".to_owned(), Attribute::Int(last as i64))];
        self.push("Concat", format!("{} columns", op.name), parts, result, axis);
    }

    /// What is added to a piece: its columns, where each column has its own.
    fn added(&mut self, added: ValueId, bounds: &[u64], (from, to): (u64, u64)) -> ValueId {
        let value = &self.values[added.0 as usize];
        let own = value.shape.last().and_then(Expr::as_constant) == bounds.last().map(|n| i128::from(*n));
        let (axis, name) = (value.shape.len().saturating_sub(1), format!("{} columns {from}..{to}", value.name));
        if own { self.slice(&name, added, axis, (from, to)) } else { added }
    }

    fn table(&mut self, op: &Op, matrix: ValueId, bounds: &[u64]) {
        let (Some(places), Some(result)) = (op.inputs[1], op.outputs[0]) else { return };
        let found = self.graph.value(result);
        let (found_type, found_shape) = (found.dtype, found.shape.clone());
        let rows = bounds[bounds.len() - 1];
        let index = self.normal(op, places, rows);
        let (index_type, index_shape) = (self.value(index).dtype, self.value(index).shape.clone());
        // One place for each row that is found, whatever the row's shape.
        let mut column_shape = index_shape.clone();
        column_shape.resize(found_shape.len(), Expr::constant(1));
        let axes = (index_shape.len()..found_shape.len()).map(|axis| Expr::constant(axis as u64)).collect();
        let axes = self.known("axes", DType::I64, axes);
        let column = self.made(op, "place", index_type, &column_shape);
        self.push("Unsqueeze", format!("{} place", op.name), vec![Some(index), Some(axes)], column, vec![]);
        let mut chosen: Option<ValueId> = None;
        for pair in bounds.windows(2).rev() {
            let (from, to) = (pair[0], pair[1]);
            let name = format!("rows {from}..{to}");
            let table_name = format!("{} {name}", self.value(matrix).name);
            let part = self.slice(&table_name, matrix, 0, (from, to));
            let inside = self.inside(op, index, (from, to, rows));
            let found = self.made(op, &name, found_type, &found_shape);
            let named = self.op_names.unique(format!("{} {name}", op.name));
            let inputs = vec![Some(part), Some(inside)];
            self.ops.push(Op { name: named, inputs, outputs: vec![Some(found)], ..op.clone() });
            let Some(above) = chosen else {
                chosen = Some(found);
                continue;
            };
            let end = self.scalar(index_type, to);
            let own = self.made(op, &format!("{name} own"), DType::Bool, &column_shape);
            self.push("Less", format!("{} {name} own", op.name), vec![Some(column), Some(end)], own, vec![]);
            let with =
                if from == 0 { result } else { self.made(op, &format!("{name} with"), found_type, &found_shape) };
            let inputs = vec![Some(own), Some(found), Some(above)];
            self.push("Where", format!("{} {name} with", op.name), inputs, with, vec![]);
            chosen = Some(with);
        }
    }

    /// Places counted from the front; one that no row has becomes the number of rows, which the last piece refuses.
    fn normal(&mut self, op: &Op, places: ValueId, rows: u64) -> ValueId {
        let (dtype, shape) = (self.value(places).dtype, self.value(places).shape.clone());
        let (zero, all) = (self.scalar(dtype, 0), self.scalar(dtype, rows));
        let step = |w: &mut Self, kind: &str, what: &str, inputs: &[ValueId]| {
            let dtype = if kind == "Less" { DType::Bool } else { dtype };
            let made = w.made(op, what, dtype, &shape);
            w.push(kind, format!("{} {what}", op.name), inputs.iter().map(|v| Some(*v)).collect(), made, vec![]);
            made
        };
        let behind = step(self, "Less", "from behind", &[places, zero]);
        let turned = step(self, "Add", "from the front", &[places, all]);
        let front = step(self, "Where", "places", &[behind, turned, places]);
        let outside = step(self, "Less", "outside", &[front, zero]);
        step(self, "Where", "places in range", &[outside, all, front])
    }

    /// Places moved to a piece, and held within it where another piece has them.
    fn inside(&mut self, op: &Op, index: ValueId, (from, to, rows): (u64, u64, u64)) -> ValueId {
        let (dtype, shape) = (self.value(index).dtype, self.value(index).shape.clone());
        let least = (from > 0).then(|| self.scalar(dtype, from));
        let most = (to < rows).then(|| self.scalar(dtype, to - 1));
        let held = self.made(op, &format!("places in {from}..{to}"), dtype, &shape);
        let mut inputs = vec![Some(index), least, most];
        inputs.truncate(if most.is_some() { 3 } else { 2 });
        self.push("Clip", format!("{} places in {from}..{to}", op.name), inputs, held, vec![]);
        if from == 0 {
            return held;
        }
        let first = self.scalar(dtype, from);
        let moved = self.made(op, &format!("places from {from}"), dtype, &shape);
        self.push("Sub", format!("{} places from {from}", op.name), vec![Some(held), Some(first)], moved, vec![]);
        moved
    }

    /// A Slice along one axis.
    fn slice(&mut self, name: &str, of: ValueId, axis: usize, (from, to): (u64, u64)) -> ValueId {
        let value = self.value(of);
        let (dtype, mut shape) = (value.dtype, value.shape.clone());
        shape[axis] = Expr::constant(to - from);
        let part = self.add(name.to_owned(), dtype, shape, Content::Computed);
        let lists = [("starts", from), ("ends", to), ("axes", axis as u64), ("steps", 1)];
        let lists = lists.map(|(what, n)| Some(self.known(what, DType::I64, vec![Expr::constant(n)])));
        let inputs = std::iter::once(Some(of)).chain(lists).collect();
        self.push("Slice", name.to_owned(), inputs, part, vec![]);
        part
    }

    fn transpose(&mut self, name: &str, of: ValueId) -> ValueId {
        let (dtype, mut shape) = (self.value(of).dtype, self.value(of).shape.clone());
        shape.reverse();
        let turned = self.add(format!("{name} turned"), dtype, shape, Content::Computed);
        let order = vec![("perm".to_owned(), Attribute::Ints(vec![1, 0]))];
        self.push("Transpose", format!("{name} turned"), vec![Some(of)], turned, order);
        turned
    }

    fn push(
        &mut self,
        kind: &str,
        name: String,
        inputs: Vec<Option<ValueId>>,
        result: ValueId,
        attributes: Vec<(String, Attribute)>,
    ) {
        let name = self.op_names.unique(name);
        self.ops.push(plain(kind, name, inputs, result, attributes));
    }

    fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    fn add(&mut self, name: String, dtype: DType, shape: Vec<Expr>, content: Content) -> ValueId {
        let name = self.value_names.unique(name);
        self.values.push(Value { name, dtype, shape, content });
        ValueId(self.values.len() as u32 - 1)
    }

    /// A value that belongs to an operator.
    fn made(&mut self, op: &Op, what: &str, dtype: DType, shape: &[Expr]) -> ValueId {
        self.add(format!("{} {what}", op.name), dtype, shape.to_vec(), Content::Computed)
    }

    fn known(&mut self, name: &str, dtype: DType, list: Vec<Expr>) -> ValueId {
        self.add(name.to_owned(), dtype, vec![Expr::constant(list.len() as u64)], Content::Known(list))
    }

    fn scalar(&mut self, dtype: DType, n: u64) -> ValueId {
        self.add("number".to_owned(), dtype, Vec::new(), Content::Known(vec![Expr::constant(n)]))
    }
}
