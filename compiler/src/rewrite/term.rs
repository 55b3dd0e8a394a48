//! Terms of the e-graph: a value by what makes it from which others. Equal terms are one class.

use berth_ir::DType;
use berth_ir::expr::Expr;
use egg::{Analysis, DidMerge, EGraph, Id, Language};
use std::collections::HashMap;

/// A list of expressions, by its number in [`Lists`]: a shape, or places.
pub(super) type List = u32;

/// What makes a value from its operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Head {
    /// A value from outside of the region, by the first value that is the same.
    Value(u32),
    /// The same bytes in this shape.
    Reshape(List),
    /// Axis `n` is the operand's axis `order[n]`.
    Transpose(Vec<usize>),
    /// From these places on, so many, in these steps.
    Slice { starts: List, sizes: List, steps: Vec<i64> },
    /// One behind the other along an axis.
    Concat(usize),
    /// A result of a Split, by the operator and its place.
    Part(u32, usize),
    /// An operator on each element alone, by the first such operator of the region.
    Map(u32),
    /// Any other operator, likewise.
    Other(u32),
}

/// A head on classes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Term {
    pub head: Head,
    pub operands: Vec<Id>,
}

impl Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head.clone()
    }
    fn matches(&self, other: &Term) -> bool {
        self.head == other.head && self.operands.len() == other.operands.len()
    }
    fn children(&self) -> &[Id] {
        &self.operands
    }
    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.operands
    }
}

/// Type and shape of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub dtype: DType,
    pub shape: List,
}

/// Lists of expressions, each kept once.
#[derive(Debug, Default)]
pub(super) struct Lists {
    all: Vec<Vec<Expr>>,
    numbers: HashMap<Vec<Expr>, List>,
}

impl Lists {
    /// The number of a list.
    pub fn number(&mut self, list: &[Expr]) -> List {
        if let Some(number) = self.numbers.get(list) {
            return *number;
        }
        let number = self.all.len() as List;
        self.all.push(list.to_vec());
        self.numbers.insert(list.to_vec(), number);
        number
    }
    /// The list of a number that this gave.
    pub fn get(&self, number: List) -> &[Expr] {
        &self.all[number as usize]
    }
}

/// What terms alone do not say of types.
#[derive(Debug, Default)]
pub(super) struct Types {
    pub lists: Lists,
    /// Types of values from outside, and of the results of operators: of Map a shape only where it stands in the file.
    pub given: HashMap<Head, Type>,
}

/// All equal forms of a region.
pub(super) type Forms = EGraph<Term, Types>;

impl Analysis<Term> for Types {
    type Data = Type;

    fn make(forms: &mut Forms, term: &Term, _: Id) -> Type {
        let of = |n: usize| forms[term.operands[n]].data;
        let shape_of = |n: usize| forms.analysis.lists.get(of(n).shape).to_vec();
        let given = forms.analysis.given.get(&term.head).copied();
        let (dtype, shape) = match &term.head {
            Head::Value(_) | Head::Part(..) | Head::Other(_) => return given.expect("its type is told first"),
            Head::Reshape(shape) => return Type { dtype: of(0).dtype, shape: *shape },
            Head::Slice { sizes, .. } => return Type { dtype: of(0).dtype, shape: *sizes },
            Head::Transpose(order) => {
                let from = shape_of(0);
                (of(0).dtype, order.iter().map(|at| from[*at].clone()).collect::<Vec<Expr>>())
            }
            Head::Concat(axis) => {
                let mut shape = shape_of(0);
                shape[*axis] = (0..term.operands.len()).fold(Expr::constant(0), |sum, n| sum + &shape_of(n)[*axis]);
                (of(0).dtype, shape)
            }
            Head::Map(_) => {
                // The operand with the most axes and elements; all others have one element.
                let one = Expr::constant(1);
                let key = |n: &usize| {
                    let shape = forms.analysis.lists.get(of(*n).shape);
                    (shape.iter().filter(|axis| **axis != one).count(), shape.len(), std::cmp::Reverse(*n))
                };
                let full = (0..term.operands.len()).max_by_key(key).unwrap_or(0);
                (given.expect("its type is told first").dtype, shape_of(full))
            }
        };
        Type { dtype, shape: forms.analysis.lists.number(&shape) }
    }

    fn merge(&mut self, a: &mut Type, b: Type) -> DidMerge {
        assert!(*a == b, "only values of one type and shape are equal");
        DidMerge(false, false)
    }
}

/// A term to be added, over classes that are there.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// A class.
    Class(Id),
    /// A head on others.
    Of(Head, Vec<Made>),
}

impl Made {
    /// Adds it; gives its class.
    pub fn add(self, forms: &mut Forms) -> Id {
        match self {
            Made::Class(id) => forms.find(id),
            Made::Of(head, operands) => {
                let operands = operands.into_iter().map(|made| made.add(forms)).collect();
                forms.add(Term { head, operands })
            }
        }
    }
}

/// The shape of a class.
pub(super) fn shape(forms: &Forms, class: Id) -> &[Expr] {
    forms.analysis.lists.get(forms[class].data.shape)
}
