//! Chooses one term for each class that is needed: the least bytes moved, each class counted once.
//!
//! Reads:    the equal forms of a region, the classes that the rest of the graph needs, a price of each term.
//! Decides:  a term for each class that the roots reach.
//! Promises: no cycle; never dearer than the form it starts from; a class that many read is paid once.
//! Why:      a tree's cost counts what is shared again and again, so it would undo sharing. The exact problem is NP-hard:
//!           sets of what is paid grow from the leaves, then single choices are changed while that wins.

use super::term::{Forms, Head, Term};
use egg::Id;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds in which sets grow from the leaves.
const ROUNDS_MAX: usize = 12;
/// Choices that are tried one by one.
const TRIES_MAX: usize = 600;

/// The term of each class, by its place in the class.
pub(super) type Choice = BTreeMap<Id, usize>;

/// What a form costs: bytes moved, tasks, terms. Compared in this order.
pub(super) type Cost = (u128, usize, usize);

/// What is paid once: a class, or the operator whose parts are classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Class(Id),
    Split(u32, Id),
}

/// Forms with the price of each term: bytes moved, nothing for what is no task.
pub(super) struct Priced<'a> {
    pub forms: &'a Forms,
    pub roots: &'a [Id],
    pub price: &'a dyn Fn(&Term, Id) -> u128,
    /// What it costs more where a root is this term: an output that is an input has to be copied.
    pub copy: &'a dyn Fn(&Term, Id) -> u128,
}

impl Priced<'_> {
    fn term(&self, class: Id, choice: usize) -> &Term {
        &self.forms[class].nodes[choice]
    }

    fn item(&self, class: Id, term: &Term) -> Item {
        match term.head {
            Head::Part(op, _) => Item::Split(op, self.forms.find(term.operands[0])),
            _ => Item::Class(class),
        }
    }

    fn own(&self, class: Id, term: &Term) -> Cost {
        let price = (self.price)(term, class);
        let copy = if self.roots.contains(&class) { (self.copy)(term, class) } else { 0 };
        let node = usize::from(!matches!(term.head, Head::Value(_)));
        (price + copy, usize::from(price + copy > 0), node)
    }

    /// The classes that the roots reach, operands first; `None` where a class needs itself or has no choice.
    pub fn order(&self, choice: &Choice) -> Option<Vec<Id>> {
        let mut order = Vec::new();
        // True once all that the class needs is in the order.
        let mut state: BTreeMap<Id, bool> = BTreeMap::new();
        let mut open: Vec<(Id, bool)> = self.roots.iter().rev().map(|id| (*id, false)).collect();
        while let Some((class, ready)) = open.pop() {
            if ready {
                state.insert(class, true);
                order.push(class);
                continue;
            }
            match state.get(&class) {
                Some(true) => continue,
                Some(false) => return None,
                None => {}
            }
            state.insert(class, false);
            open.push((class, true));
            let term = self.term(class, *choice.get(&class)?);
            for operand in term.operands.iter().rev().map(|id| self.forms.find(*id)) {
                match state.get(&operand) {
                    Some(true) => {}
                    Some(false) => return None,
                    None => open.push((operand, false)),
                }
            }
        }
        Some(order)
    }

    /// What a choice costs.
    pub fn cost(&self, choice: &Choice) -> Option<Cost> {
        let mut paid = BTreeSet::new();
        let mut cost = (0, 0, 0);
        for class in self.order(choice)? {
            let term = self.term(class, choice[&class]);
            if paid.insert(self.item(class, term)) {
                cost = sum(cost, self.own(class, term));
            }
        }
        Some(cost)
    }

    /// Grows sets of what is paid from the leaves; for each class the cheapest found.
    pub fn grown(&self) -> Choice {
        type Best = (Cost, usize, BTreeMap<Item, Cost>);
        let mut best: BTreeMap<Id, Best> = BTreeMap::new();
        let mut classes: Vec<Id> = self.forms.classes().map(|class| class.id).collect();
        classes.sort();
        for _ in 0..ROUNDS_MAX {
            let mut changed = false;
            for class in &classes {
                for (n, term) in self.forms[*class].nodes.iter().enumerate() {
                    let mut paid: BTreeMap<Item, Cost> = BTreeMap::new();
                    let found = term.operands.iter().all(|operand| {
                        let below = best.get(&self.forms.find(*operand));
                        // What needs the class itself is no way to make it.
                        below.is_some_and(|(_, _, items)| {
                            paid.extend(items);
                            !items.contains_key(&Item::Class(*class))
                        })
                    });
                    if !found {
                        continue;
                    }
                    paid.insert(self.item(*class, term), self.own(*class, term));
                    let cost = paid.values().fold((0, 0, 0), |all, one| sum(all, *one));
                    if best.get(class).is_none_or(|(old, _, _)| cost < *old) {
                        best.insert(*class, (cost, n, paid));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        best.into_iter().map(|(class, (_, n, _))| (class, n)).collect()
    }

    /// Changes one choice at a time while `judge` says that it wins. `judge` gives what a choice costs, or nothing where
    /// it will not do.
    pub fn climb(&self, start: Choice, judge: &mut dyn FnMut(&Choice) -> Option<Cost>) -> Option<(Cost, Choice)> {
        let mut best = (judge(&start)?, start);
        let mut tries = 0;
        loop {
            let mut won = false;
            for class in self.order(&best.1)? {
                for n in 0..self.forms[class].nodes.len() {
                    if best.1.get(&class) == Some(&n) {
                        continue;
                    }
                    tries += 1;
                    if tries > TRIES_MAX {
                        return Some(best);
                    }
                    let mut other = best.1.clone();
                    other.insert(class, n);
                    if let Some(cost) = judge(&other).filter(|cost| *cost < best.0) {
                        best = (cost, other);
                        won = true;
                    }
                }
            }
            if !won {
                return Some(best);
            }
        }
    }
}

fn sum(a: Cost, b: Cost) -> Cost {
    (a.0 + b.0, a.1 + b.1, a.2 + b.2)
}
