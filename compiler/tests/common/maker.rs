//! Makes lifetimes without a graph.

use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::{Home, Kind};
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;

/// A model in the making.
pub struct Maker(pub Lifetimes);

impl Maker {
    pub fn new() -> Maker {
        Maker(Lifetimes { model: "made up".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] })
    }

    pub fn tensor(&mut self, kind: Kind, bytes: u64) -> TensorId {
        let n = self.0.tensors.len() as u64;
        let home = Home {
            tier: "nvme".into(),
            file: "w.bin".into(),
            offset: n << 32,
            transposed: None,
            strip: None,
            filled: None,
        };
        self.0.tensors.push(Tensor {
            name: format!("t{n}"),
            kind,
            dtype: DType::U8,
            extent: Expr::constant(bytes),
            bytes,
            home: (kind == Kind::Weight).then_some(home),
            aliases: vec![],
        });
        TensorId(n as u32)
    }

    pub fn task(&mut self, reads: &[TensorId], kind: Kind, bytes: u64, cost: u64) -> TensorId {
        let result = self.tensor(kind, bytes);
        let name = format!("task{}", self.0.tasks.len());
        self.0.tasks.push(Task {
            ops: vec![name.clone()],
            name,
            reads: reads.to_vec(),
            writes: vec![result],
            rows: vec![],
            in_place: vec![],
            workspace: 0,
            cost: Nanos(cost),
            others: vec![],
            held: None,
        });
        result
    }
}
