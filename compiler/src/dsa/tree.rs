//! Orders of leaves in which certain sets of them lie together: a PQ-tree (Booth and Lueker 1976).
//!
//! Reads:    sets of leaves that shall lie together; leaves that take the place of such a set.
//! Decides:  nothing that the sets leave open.
//! Promises: a set that was brought together stays so until it is replaced. One that cannot be is refused; the tree may
//!           stand for fewer orders then, but for none that it did not stand for before.
//! Why:      an order that is settled before it has to be is the wrong one later.

/// No node.
pub const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Leaf,
    /// Its children lie in any order.
    Any,
    /// Its children lie in this order or its reverse.
    Row,
}

/// What a node holds of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Empty,
    /// A row: first children that are empty, then full ones.
    Partial,
    Full,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    parent: u32,
    children: Vec<u32>,
    /// What a leaf stands for.
    item: u32,
    /// The set that the following are about.
    set: u32,
    label: Label,
    /// Children that hold some of it, all and those that are known; leaves below that are in it.
    waits: u32,
    known: u32,
    leaves: usize,
}

/// The tree.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    spare: Vec<u32>,
    root: u32,
    set: u32,
    /// Nodes looked at.
    pub work: u64,
}

impl Tree {
    /// One leaf.
    pub fn new(item: u32) -> Tree {
        let mut tree = Tree { nodes: Vec::new(), spare: Vec::new(), root: 0, set: 0, work: 0 };
        tree.root = tree.leaf(item);
        tree
    }

    /// Above all.
    pub fn root(&self) -> u32 {
        self.root
    }

    /// The node above another.
    pub fn parent(&self, id: u32) -> u32 {
        self.nodes[id as usize].parent
    }

    /// What a leaf stands for.
    pub fn item(&self, id: u32) -> u32 {
        self.nodes[id as usize].item
    }

    fn children(&self, id: u32) -> &[u32] {
        &self.nodes[id as usize].children
    }

    fn leaf(&mut self, item: u32) -> u32 {
        let id = self.node(Kind::Leaf, Vec::new(), Label::Empty);
        self.nodes[id as usize].item = item;
        id
    }

    fn node(&mut self, kind: Kind, children: Vec<u32>, label: Label) -> u32 {
        let (item, set) = (NONE, self.set);
        let node = Node { kind, parent: NONE, children: Vec::new(), item, set, label, waits: 0, known: 0, leaves: 0 };
        let id = self.spare.pop().unwrap_or(self.nodes.len() as u32);
        if id as usize == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[id as usize] = node;
        }
        self.adopt(id, children);
        id
    }

    fn adopt(&mut self, id: u32, children: Vec<u32>) {
        self.work += children.len() as u64;
        for child in &children {
            self.nodes[*child as usize].parent = id;
        }
        self.nodes[id as usize].children = children;
    }

    /// A node of these in any order; the only one of them; none.
    fn any(&mut self, children: Vec<u32>, label: Label) -> Option<u32> {
        match children.len() {
            0 | 1 => children.first().copied(),
            _ => Some(self.node(Kind::Any, children, label)),
        }
    }

    /// Where a node lies among its siblings.
    fn place(&mut self, id: u32) -> usize {
        let siblings = &self.nodes[self.parent(id) as usize].children;
        let place = siblings.iter().position(|c| *c == id).expect("a parent knows its children");
        self.work += place as u64 / 8;
        place
    }

    fn label(&self, id: u32) -> Label {
        let node = &self.nodes[id as usize];
        if node.set == self.set && node.known == node.waits { node.label } else { Label::Empty }
    }

    /// Counts, from the leaves up to the node above them all, the children that hold some of them.
    fn bubble(&mut self, leaves: &[u32]) {
        self.set += 1;
        for leaf in leaves {
            let node = &mut self.nodes[*leaf as usize];
            (node.set, node.label, node.waits, node.known, node.leaves) = (self.set, Label::Full, 0, 0, 1);
        }
        let mut queue = leaves.to_vec();
        let (mut next, mut tops) = (0, 0);
        while next < queue.len() && queue.len() - next + tops > 1 {
            let parent = self.parent(queue[next]);
            next += 1;
            if parent == NONE {
                tops = 1;
                continue;
            }
            let node = &mut self.nodes[parent as usize];
            if node.set == self.set {
                node.waits += 1;
            } else {
                (node.set, node.waits, node.known, node.leaves) = (self.set, 1, 0, 0);
                queue.push(parent);
            }
        }
        self.work += queue.len() as u64;
    }

    /// Brings leaves together: the node that holds just them, if there is an order.
    pub fn reduce(&mut self, leaves: &[u32]) -> Option<u32> {
        self.bubble(leaves);
        let mut queue = leaves.to_vec();
        let mut next = 0;
        while next < queue.len() {
            let id = queue[next];
            next += 1;
            let held = self.nodes[id as usize].leaves;
            if held == leaves.len() {
                return self.gather(id);
            }
            if !self.push_aside(id) {
                return None;
            }
            let parent = self.parent(id);
            let node = &mut self.nodes[parent as usize];
            node.known += 1;
            node.leaves += held;
            if node.known == node.waits {
                queue.push(parent);
            }
        }
        None
    }

    /// Takes the children of a node, by label.
    fn sorted(&mut self, id: u32) -> [Vec<u32>; 3] {
        let children = std::mem::take(&mut self.nodes[id as usize].children);
        self.work += children.len() as u64;
        let mut sorted = [Vec::new(), Vec::new(), Vec::new()];
        for child in children {
            sorted[self.label(child) as usize].push(child);
        }
        sorted
    }

    /// Takes the children of a row that is no more.
    fn dissolve(&mut self, id: u32) -> Vec<u32> {
        self.spare.push(id);
        std::mem::take(&mut self.nodes[id as usize].children)
    }

    /// Brings what is of the set to one end below a node that does not hold all of it; false where that cannot be.
    fn push_aside(&mut self, id: u32) -> bool {
        let row = match self.nodes[id as usize].kind {
            Kind::Leaf => return true,
            Kind::Any => self.push_any(id),
            Kind::Row => self.push_row(id),
        };
        let Some((row, label)) = row else { return false };
        self.adopt(id, row);
        let node = &mut self.nodes[id as usize];
        node.label = label;
        if label == Label::Partial {
            node.kind = Kind::Row;
        }
        true
    }

    fn push_any(&mut self, id: u32) -> Option<(Vec<u32>, Label)> {
        let [empty, partial, full] = self.sorted(id);
        if partial.len() > 1 {
            self.nodes[id as usize].children = [empty, partial, full].concat();
            return None;
        }
        if empty.is_empty() && partial.is_empty() {
            return Some((full, Label::Full));
        }
        let mut row: Vec<u32> = self.any(empty, Label::Empty).into_iter().collect();
        partial.into_iter().for_each(|p| row.extend(self.dissolve(p)));
        row.extend(self.any(full, Label::Full));
        Some((row, Label::Partial))
    }

    fn push_row(&mut self, id: u32) -> Option<(Vec<u32>, Label)> {
        let mut children = std::mem::take(&mut self.nodes[id as usize].children);
        self.work += children.len() as u64;
        if self.label(children[0]) > self.label(children[children.len() - 1]) {
            children.reverse();
        }
        let labels: Vec<Label> = children.iter().map(|c| self.label(*c)).collect();
        if !labels.is_sorted() || labels.iter().filter(|l| **l == Label::Partial).count() > 1 {
            self.nodes[id as usize].children = children;
            return None;
        }
        let label = if labels[0] == Label::Full { Label::Full } else { Label::Partial };
        Some((self.flat(children), label))
    }

    /// Children of a row, with those of partial ones in their place, the full ones towards the middle.
    fn flat(&mut self, children: Vec<u32>) -> Vec<u32> {
        let mut row = Vec::with_capacity(children.len() + 8);
        let mut begun = false;
        for child in children {
            match self.label(child) {
                Label::Partial if begun => row.extend(self.dissolve(child).into_iter().rev()),
                Label::Partial => row.extend(self.dissolve(child)),
                _ => row.push(child),
            }
            begun |= row.last().is_some_and(|c| self.label(*c) == Label::Full);
        }
        row
    }

    /// Brings the set together below the lowest node that holds all of it.
    fn gather(&mut self, id: u32) -> Option<u32> {
        match self.nodes[id as usize].kind {
            Kind::Leaf => Some(id),
            Kind::Any => self.gather_any(id),
            Kind::Row => self.gather_row(id),
        }
    }

    fn gather_any(&mut self, id: u32) -> Option<u32> {
        let [mut empty, partial, full] = self.sorted(id);
        if partial.len() > 2 {
            self.nodes[id as usize].children = [empty, partial, full].concat();
            return None;
        }
        if empty.is_empty() && partial.is_empty() {
            self.nodes[id as usize].children = full;
            return Some(id);
        }
        let full = self.any(full, Label::Full);
        let Some(first) = partial.first() else {
            empty.extend(full);
            self.adopt(id, empty);
            return full;
        };
        let mut row = self.dissolve(*first);
        row.extend(full);
        if let Some(second) = partial.get(1) {
            row.extend(self.dissolve(*second).into_iter().rev());
        }
        if empty.is_empty() {
            self.adopt(id, row);
            self.nodes[id as usize].kind = Kind::Row;
            return self.full_part(id);
        }
        let row = self.node(Kind::Row, row, Label::Partial);
        empty.push(row);
        self.adopt(id, empty);
        self.full_part(row)
    }

    fn gather_row(&mut self, id: u32) -> Option<u32> {
        let labels: Vec<Label> = self.children(id).iter().map(|c| self.label(*c)).collect();
        self.work += labels.len() as u64;
        let from = labels.iter().position(|l| *l != Label::Empty)?;
        let to = labels.iter().rposition(|l| *l != Label::Empty)?;
        if labels[from..=to].iter().skip(1).rev().skip(1).any(|l| *l != Label::Full) {
            return None;
        }
        let children = std::mem::take(&mut self.nodes[id as usize].children);
        let row = self.flat(children);
        self.adopt(id, row);
        self.full_part(id)
    }

    /// One node of the full children of a row.
    fn full_part(&mut self, id: u32) -> Option<u32> {
        let full: Vec<u32> = self.children(id).iter().copied().filter(|c| self.label(*c) == Label::Full).collect();
        self.work += self.children(id).len() as u64;
        Some(self.group(id, &full))
    }

    /// One node of some children of a node; in a row they are neighbours, in order.
    pub fn group(&mut self, id: u32, some: &[u32]) -> u32 {
        if some.len() == 1 {
            return some[0];
        }
        if some.len() == self.children(id).len() {
            return id;
        }
        let kind = self.nodes[id as usize].kind;
        let from = if kind == Kind::Row { self.place(some[0]) } else { 0 };
        let node = self.node(kind, some.to_vec(), Label::Full);
        self.nodes[node as usize].parent = id;
        let children = &mut self.nodes[id as usize].children;
        if kind == Kind::Row {
            children.splice(from..from + some.len(), [node]);
        } else {
            children.retain(|c| !some.contains(c));
            children.push(node);
        }
        node
    }

    /// A leaf and those siblings that can lie beside it, all leaves whose items pass.
    pub fn beside(&mut self, leaf: u32, passes: impl Fn(u32) -> bool) -> Vec<u32> {
        if self.parent(leaf) == NONE {
            return vec![leaf];
        }
        let parent = &self.nodes[self.parent(leaf) as usize];
        self.work += parent.children.len() as u64;
        let passes = |c: &u32| self.nodes[*c as usize].kind == Kind::Leaf && passes(self.item(*c));
        if parent.kind == Kind::Any {
            return parent.children.iter().copied().filter(passes).collect();
        }
        let place = parent.children.iter().position(|c| *c == leaf).expect("a parent knows its children");
        let from = place - parent.children[..place].iter().rev().take_while(|c| passes(c)).count();
        parent.children[from..].iter().copied().take_while(passes).collect()
    }

    /// What one beside a node in a row stands for, and whether it lies before it.
    pub fn neighbour(&mut self, id: u32) -> Option<(u32, bool)> {
        let parent = self.parent(id);
        if parent == NONE || self.nodes[parent as usize].kind != Kind::Row {
            return None;
        }
        let place = self.place(id);
        let mut leaf = self.children(parent)[if place > 0 { place - 1 } else { 1 }];
        while let Some(first) = self.children(leaf).first() {
            leaf = *first;
        }
        Some((self.item(leaf), place > 0))
    }

    /// The leaves below a node, in one of their orders.
    pub fn frontier(&mut self, id: u32) -> Vec<u32> {
        let (mut stack, mut leaves) = (vec![id], Vec::new());
        while let Some(id) = stack.pop() {
            self.work += 1;
            let node = &self.nodes[id as usize];
            if node.kind == Kind::Leaf {
                leaves.push(id);
            }
            stack.extend(node.children.iter().rev());
        }
        leaves
    }

    /// Puts leaves for these items, of which there is one at least, in the place of all below a node; those leaves.
    pub fn replace(&mut self, id: u32, items: &[u32]) -> Vec<u32> {
        let mut below = std::mem::take(&mut self.nodes[id as usize].children);
        while let Some(id) = below.pop() {
            below.append(&mut self.nodes[id as usize].children);
            self.spare.push(id);
        }
        if let [item] = items {
            let node = &mut self.nodes[id as usize];
            (node.kind, node.item) = (Kind::Leaf, *item);
            return vec![id];
        }
        let leaves: Vec<u32> = items.iter().map(|item| self.leaf(*item)).collect();
        self.nodes[id as usize].kind = Kind::Any;
        self.adopt(id, leaves.clone());
        leaves
    }
}
