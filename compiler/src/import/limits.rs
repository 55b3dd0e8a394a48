//! What a model file may cost, in one place: sizes, counts and depths that are refused beyond these, or not worked out.
//!
//! Why: a file is written by whoever wants to be read. Each limit is far above what exporters write, and low enough that the
//! worst file below it is done with in seconds and in a small multiple of its size. The limits of other forms stand beside
//! their readers: `ir/src/expr` (expressions), `ir/src/beneath.rs` (names of files), `src/npz.rs` (arrays), `src/buffers.rs`.

/// Memory that each byte of a file may take. Exported models take up to 14 for a byte that is no weight, and the densest
/// graph that has a meaning takes 49: casts in a row, of short names (lists begin with room for four attributes, each of
/// 300 bytes). Parts without contents take up to 600.
pub(super) const WIRE_FACTOR: u64 = 64;
/// Memory that a file may take whatever its size: any machine has it.
pub(super) const WIRE_FREE: u64 = 16 << 20;
/// How deep messages may nest, as the decoder has it, and groups beside them.
pub(super) const WIRE_DEPTH_MAX: usize = 100;
/// Most nodes that calls may become. Four times what the largest exported models have after inlining; with a kilobyte
/// for a node, about 100 MB.
pub(super) const CALL_NODES_MAX: u64 = 100_000;
/// Most bytes, weights not counted, that the nodes of calls may take in the file's form.
pub(super) const CALL_BYTES_MAX: u64 = 64 << 20;
/// Longest name of a call that stands before the names inside; every one of them carries it.
pub(super) const CALL_PREFIX_MAX: usize = 200;
/// Deepest chain of calls, and deepest nesting of graphs once they are inlined. Libraries of functions call five deep.
pub(super) const CALL_DEPTH_MAX: usize = 32;
/// Most axes of a value.
pub(super) const RANK_MAX: usize = 64;
/// Most relations between dims that operators prove; each costs one more round over the graph.
pub(super) const RELATIONS_MAX: usize = 32;
/// Folded elements that any model may have, besides those that its size allows.
pub(super) const FOLDED_FREE: usize = 1 << 16;
/// Integer tensors up to this many elements have known contents.
pub(super) const KNOWN_MAX: u64 = 1024;
/// Float tensors up to this many elements have known contents.
pub(super) const FLOATS_MAX: usize = 64;
