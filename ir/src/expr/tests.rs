//! Normal forms against the trees that they came from, and texts that go round.

use super::*;
use proptest::prelude::*;

fn e(text: &str) -> Expr {
    text.parse().unwrap()
}

#[test]
fn equal_polynomials_are_equal() {
    for (a, b) in [
        ("past + seq", "seq + past"),
        ("(batch*past_plus_seq)//batch", "past_plus_seq"),
        ("(batch*(past + seq)*8)//(seq + past)", "8*batch"),
        ("(a + b)*(a - b)", "a*a - b*b"),
        ("(4*n + 2)//2", "2*n + 1"),
        ("(n//2)//3", "n//6"),
        ("ceil(n, 4)", "(n + 3)//4"),
        ("max(n, 0)", "n"),
        ("min(n, n + 3)", "n"),
        ("min(a, min(b, a))", "min(b, a)"),
        ("max(a, 3, 7)", "max(7, a)"),
        ("a - a", "0"),
        ("`past seq` + 1", "1 + `past seq`"),
    ] {
        assert_eq!(e(a), e(b), "{a} and {b}");
    }
    assert_ne!(e("a//2"), e("a"));
}

#[test]
fn text_is_readable() {
    for text in [
        "past + seq",
        "2*batch*seq - 1",
        "-(n//2)",
        "2*(n//2)",
        "(n + 3)//4",
        "n//(a*b)",
        "ceil(n, m)",
        "min(a, b) + 1",
        "a*a*b",
        "`a b`",
        "`x``y`",
        "``",
        "`2x`",
        "`min`",
        "`a/b`",
        "overflow!",
        "layer.0:past",
    ] {
        assert_eq!(e(text).to_string(), text);
    }
}

#[test]
fn nonsense_is_refused() {
    for text in ["", "a +", "(a", "a b", "min(a)", "2x", "`a", "a/b", "f(a, b)", "a)", ","] {
        assert!(text.parse::<Expr>().is_err(), "{text}");
    }
    assert!("(".repeat(100_000).parse::<Expr>().is_err());
    assert!(format!("{}1", "-".repeat(100_001)).parse::<Expr>().is_ok());
}

#[test]
fn overflow_ends_as_an_error() {
    let big = e("170141183460469231731687303715884105727");
    assert!((&big + Expr::constant(1)).is_overflow());
    assert_eq!((&big * &big).eval(&Binding::new()), Err(EvalError::Overflow));
    assert!(e("a//0").is_overflow());
    let binding = Binding::from([("a".to_owned(), u64::MAX)]);
    assert_eq!(e("a*a*a").eval(&binding), Err(EvalError::Overflow));
    assert_eq!(e("b").eval(&binding), Err(EvalError::Unbound("b".to_owned())));
    // Each round doubles the text of the expression; the limits stop it.
    let mut growing = e("a");
    for _ in 0..100 {
        growing = (&growing * Expr::constant(3)).min(&(&growing * &growing)).floor_div(&e("b"));
    }
    assert!(growing.is_overflow());
}

#[test]
fn ranges_hold() {
    let ranges = Ranges::from([("a".to_owned(), (1, 10)), ("b".to_owned(), (0, 4))]);
    for (text, low, high) in [
        ("a*b - 1", -1, 39),
        ("a//3", 0, 3),
        ("min(a, 2*b)", 0, 8),
        ("max(a, b)", 1, 10),
        ("b//a", 0, 4),
        ("ceil(b, a)", 0, 4),
    ] {
        assert_eq!(e(text).range(&ranges), Some((low, high)), "{text}");
    }
    assert_eq!(e("c").range(&ranges), None);
}

/// The tree that a normal form came from.
#[derive(Clone, Debug)]
enum Tree {
    Number(i8),
    Dim(u8),
    Two(u8, Box<Tree>, Box<Tree>),
}

impl Tree {
    fn expr(&self) -> Expr {
        match self {
            Tree::Number(n) => Expr::constant(*n),
            Tree::Dim(d) => Expr::dim(["a", "b", "c"][usize::from(*d)]),
            Tree::Two(op, x, y) => {
                let (x, y) = (x.expr(), y.expr());
                match op {
                    0 => x + y,
                    1 => x - y,
                    2 => x * y,
                    3 => x.floor_div(&y),
                    4 => x.ceil_div(&y),
                    5 => x.min(&y),
                    _ => x.max(&y),
                }
            }
        }
    }

    /// `None` on overflow or division by zero.
    fn value(&self, sizes: [u64; 3]) -> Option<i128> {
        Some(match self {
            Tree::Number(n) => i128::from(*n),
            Tree::Dim(d) => i128::from(sizes[usize::from(*d)]),
            Tree::Two(op, x, y) => {
                let (x, y) = (x.value(sizes)?, y.value(sizes)?);
                match op {
                    0 => x.checked_add(y)?,
                    1 => x.checked_sub(y)?,
                    2 => x.checked_mul(y)?,
                    3 => divide_number(x, y, false)?,
                    4 => divide_number(x, y, true)?,
                    5 => x.min(y),
                    _ => x.max(y),
                }
            }
        })
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![any::<i8>().prop_map(Tree::Number), (0u8..3).prop_map(Tree::Dim)];
    leaf.prop_recursive(5, 24, 2, |inner| {
        (0u8..7, inner.clone(), inner).prop_map(|(op, x, y)| Tree::Two(op, Box::new(x), Box::new(y)))
    })
}

fn binding(sizes: [u64; 3]) -> Binding {
    ["a", "b", "c"].iter().zip(sizes).map(|(name, size)| ((*name).to_owned(), size)).collect()
}

proptest! {
    #[test]
    fn normal_form_has_the_tree_value(tree in tree(), sizes in [0u64..9, 0u64..9, 0u64..9]) {
        let expr = tree.expr();
        if let Some(value) = tree.value(sizes) && !expr.is_overflow() {
            prop_assert_eq!(expr.eval(&binding(sizes)), Ok(value), "{}", expr);
            prop_assert_eq!(expr.bind(&binding(sizes)).as_constant(), Some(value), "{}", expr);
            let first = Binding::from([("a".to_owned(), sizes[0])]);
            prop_assert_eq!(expr.bind(&first).eval(&binding(sizes)), Ok(value), "{}", expr);
            let ranges = binding(sizes).into_iter().map(|(n, s)| (n, (s.saturating_sub(2), s + 3))).collect();
            if let Some((low, high)) = expr.range(&ranges) {
                prop_assert!(low <= value && value <= high, "{}: {} in {}..={}", expr, value, low, high);
            }
        }
    }

    #[test]
    fn text_round_trips(tree in tree()) {
        let expr = tree.expr();
        prop_assert_eq!(expr.to_string().parse::<Expr>(), Ok(expr));
    }

    #[test]
    fn any_name_round_trips(name in ".*") {
        let expr = Expr::dim(&name) + Expr::constant(1);
        prop_assert_eq!(expr.to_string().parse::<Expr>(), Ok(expr));
    }

    #[test]
    fn no_text_panics(text in "[-a-c0-9+*/(),` min]{0,40}") {
        let _ = text.parse::<Expr>();
    }
}
