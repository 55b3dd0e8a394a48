//! What decoding a model file allocates, from its wire format alone, before anything is decoded.
//!
//! Reads:    keys and lengths; names, weights and all else that has a length is stepped over.
//! Decides:  whether the file is worth decoding.
//! Promises: a file that would take more than [`allowed`] is not decoded; time linear in what is not stepped over. A
//!           file is read for as long as the decoder would read it, so that being broken hides nothing; what is wrong
//!           with it is for the decoder to say.
//! Why:      two bytes are an empty node, and an empty node in memory is a hundred times that.

use super::limits::{WIRE_DEPTH_MAX, WIRE_FACTOR, WIRE_FREE};
use super::onnx::{self, tensor_shape_proto, type_proto};
use std::path::Path;

/// Field numbers are below this.
const NUMBERS: usize = 32;

/// Bytes of memory that decoding a file of this size may take.
pub fn allowed(size: u64) -> u64 {
    size.saturating_mul(WIRE_FACTOR).saturating_add(WIRE_FREE)
}

/// What [`scan`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Bytes that decoding allocates, at most: of lists their capacity.
    pub bytes: u64,
    /// The byte of the file at which that is more than its size allows.
    pub over: Option<usize>,
}

/// Refuses a file that takes more memory than [`allowed`].
pub(super) fn check(file: &[u8], path: &Path) -> Result<(), super::ImportError> {
    let (size, found) = (file.len() as u64, scan(file));
    match found.over {
        Some(at) => Err(super::ImportError::Swells { path: path.to_owned(), at, size, needed: found.bytes }),
        None => Ok(()),
    }
}

/// The messages of `proto/onnx.proto`; those with the same fields are one.
#[derive(Clone, Copy)]
enum Message {
    Model,
    OperatorSet,
    Function,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    Tensor,
    SparseTensor,
    Entry,
    Shape,
    Dimension,
    Type,
    TypeTensor,
    /// A sequence or an optional value.
    TypeOf,
    TypeMap,
    TypeOpaque,
}

/// What a field holds in memory beyond the message that it is part of.
#[derive(Clone, Copy)]
enum Field {
    /// Nothing: a number, a slice of the file, or a field that the decoder skips.
    Nothing,
    /// A copied string.
    Text,
    /// A list, an element each time: its size, and what is in it.
    List(usize, Element),
    /// A message, in a box of this size; zero for one that is part of its parent.
    One(Message, usize),
}

#[derive(Clone, Copy)]
enum Element {
    /// Numbers, of which one takes so many bytes of the file at least: one alone, or packed.
    Number(usize),
    /// Copied bytes.
    Text,
    /// Slices of the file.
    Slice,
    Message(Message),
}

const fn texts() -> Field {
    Field::List(size_of::<String>(), Element::Text)
}

const fn slices() -> Field {
    Field::List(size_of::<bytes::Bytes>(), Element::Slice)
}

const fn numbers<T>() -> Field {
    Field::List(size_of::<T>(), Element::Number(1))
}

const fn many<T>(message: Message) -> Field {
    Field::List(size_of::<T>(), Element::Message(message))
}

const fn boxed<T>(message: Message) -> Field {
    Field::One(message, size_of::<T>())
}

/// The schema, as far as it costs memory.
fn field(of: Message, number: u32) -> Field {
    use Message::*;
    match (of, number) {
        (Model, 2 | 3) => Field::Text,
        (Model, 7) => Field::One(Graph, 0),
        (Model, 8) | (Function, 9) => many::<onnx::OperatorSetIdProto>(OperatorSet),
        (Model, 25) => many::<onnx::FunctionProto>(Function),
        (OperatorSet, 1) => Field::Text,
        (Function, 1 | 10 | 13) => Field::Text,
        (Function, 4..=6) => texts(),
        (Function, 7) | (Graph, 1) => many::<onnx::NodeProto>(Node),
        (Function, 11) | (Node, 5) => many::<onnx::AttributeProto>(Attribute),
        (Graph, 2) => Field::Text,
        (Graph, 5) | (Attribute, 10) => many::<onnx::TensorProto>(Tensor),
        (Graph, 11..=13) => many::<onnx::ValueInfoProto>(ValueInfo),
        (Graph, 15) | (Attribute, 23) => many::<onnx::SparseTensorProto>(SparseTensor),
        (Node, 1 | 2) => texts(),
        (Node, 3 | 4 | 7 | 8) => Field::Text,
        (Attribute, 1 | 21) => Field::Text,
        (Attribute, 5) => boxed::<onnx::TensorProto>(Tensor),
        (Attribute, 6) => boxed::<onnx::GraphProto>(Graph),
        (Attribute, 7) => Field::List(size_of::<f32>(), Element::Number(size_of::<f32>())),
        (Attribute, 8) => numbers::<i64>(),
        (Attribute, 9) => slices(),
        (Attribute, 11) => many::<onnx::GraphProto>(Graph),
        (Attribute, 14) => boxed::<onnx::TypeProto>(Type),
        (Attribute, 15) => many::<onnx::TypeProto>(Type),
        (Attribute, 22) => boxed::<onnx::SparseTensorProto>(SparseTensor),
        (ValueInfo, 1) => Field::Text,
        (ValueInfo, 2) => Field::One(Type, 0),
        (Tensor, 1 | 7 | 11) | (SparseTensor, 3) => numbers::<i64>(),
        (Tensor, 5) => numbers::<i32>(),
        (Tensor, 6) => texts(),
        (Tensor, 8) => Field::Text,
        (Tensor, 13) => many::<onnx::StringStringEntryProto>(Entry),
        (SparseTensor, 1 | 2) => Field::One(Tensor, 0),
        (Entry, 1 | 2) => Field::Text,
        (Shape, 1) => many::<tensor_shape_proto::Dimension>(Dimension),
        (Dimension, 2) => Field::Text,
        (Type, 1 | 8) => Field::One(TypeTensor, 0),
        (Type, 4) => boxed::<type_proto::Sequence>(TypeOf),
        (Type, 5) => boxed::<type_proto::Map>(TypeMap),
        (Type, 7) => Field::One(TypeOpaque, 0),
        (Type, 9) => boxed::<type_proto::Optional>(TypeOf),
        (TypeTensor, 2) => Field::One(Shape, 0),
        (TypeOf, 1) | (TypeMap, 2) => boxed::<onnx::TypeProto>(Type),
        (TypeOpaque, 1 | 2) => Field::Text,
        _ => Field::Nothing,
    }
}

/// A message that is being read.
struct Frame {
    message: Message,
    /// Where it ends in the file.
    end: usize,
    /// Elements of each of its lists, by field number.
    held: [u32; NUMBERS],
}

impl Frame {
    fn new(message: Message, end: usize) -> Frame {
        Frame { message, end, held: [0; NUMBERS] }
    }

    /// What one more element of this size costs: a list begins with room for four and doubles.
    fn push(&mut self, number: u32, size: usize) -> usize {
        let held = &mut self.held[number as usize];
        let before = *held as usize;
        *held = held.saturating_add(1);
        match before {
            0 => 4 * size,
            4.. if before.is_power_of_two() => before.saturating_mul(size),
            _ => 0,
        }
    }
}

/// Sums what decoding allocates, to the end of the file or to where the decoder gives up.
pub fn scan(file: &[u8]) -> Scan {
    let mut found = Scan::default();
    let allowed = allowed(file.len() as u64);
    let mut reader = Reader { file, at: 0 };
    let mut open = vec![Frame::new(Message::Model, file.len())];
    while let Some(frame) = open.last_mut() {
        if reader.at >= frame.end {
            // Contents that reach past their message are an error to the decoder, but only after it has read them.
            if reader.at > frame.end {
                break;
            }
            open.pop();
            continue;
        }
        let from = reader.at;
        let Some((cost, inside)) = reader.field(frame) else { break };
        found.bytes = found.bytes.saturating_add(cost as u64);
        if found.over.is_none() && found.bytes > allowed {
            found.over = Some(from);
        }
        if let Some((message, end)) = inside {
            if open.len() > WIRE_DEPTH_MAX {
                break;
            }
            open.push(Frame::new(message, end));
        }
    }
    found
}

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Reads or steps over one field. Gives its cost and, of a message, what it is and where it ends, its contents being
    /// next; `None` where the file is broken.
    fn field(&mut self, frame: &mut Frame) -> Option<(usize, Option<(Message, usize)>)> {
        let (number, wire) = self.key()?;
        let field = field(frame.message, number);
        if wire != 2 {
            self.skip(number, wire)?;
            return match field {
                Field::Nothing => Some((0, None)),
                Field::List(size, Element::Number(_)) => Some((frame.push(number, size), None)),
                _ => None,
            };
        }
        let length = self.varint()?;
        let start = self.at;
        self.forward(length)?;
        let (length, end) = (self.at - start, self.at);
        let cost = match field {
            Field::Nothing => 0,
            Field::Text => text(length),
            Field::One(_, size) => size,
            Field::List(size, Element::Text) => frame.push(number, size).saturating_add(text(length)),
            Field::List(size, Element::Slice | Element::Message(_)) => frame.push(number, size),
            // The numbers are not counted one by one: they may be a weight.
            Field::List(size, Element::Number(least)) => size.saturating_mul((length / least).saturating_mul(2).max(4)),
        };
        let (Field::One(message, _) | Field::List(_, Element::Message(message))) = field else {
            return Some((cost, None));
        };
        self.at = start;
        Some((cost, Some((message, end))))
    }

    /// Steps over a field that has no length.
    fn skip(&mut self, number: u32, wire: u32) -> Option<()> {
        match wire {
            0 => self.varint().map(|_| ()),
            1 => self.forward(8),
            3 => self.skip_group(number),
            5 => self.forward(4),
            _ => None,
        }
    }

    /// Steps over the rest of a group, and those in it.
    fn skip_group(&mut self, number: u32) -> Option<()> {
        let mut open = vec![number];
        while let Some(last) = open.last() {
            match self.key()? {
                (number, 3) if open.len() < WIRE_DEPTH_MAX => open.push(number),
                (number, 4) if number == *last => drop(open.pop()),
                (_, 3 | 4) => return None,
                (_, 2) => {
                    let length = self.varint()?;
                    self.forward(length)?;
                }
                (number, wire) => self.skip(number, wire)?,
            }
        }
        Some(())
    }

    fn forward(&mut self, bytes: u64) -> Option<()> {
        let at = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        (at <= self.file.len()).then(|| self.at = at)
    }

    /// Field number and wire type.
    fn key(&mut self) -> Option<(u32, u32)> {
        let key = u32::try_from(self.varint()?).ok()?;
        (key >= 8).then_some((key >> 3, key & 7))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for (shift, byte) in (0..64).step_by(7).zip(self.file.get(self.at..)?) {
            value |= u64::from(byte & 0x7f) << shift;
            self.at += 1;
            if *byte < 0x80 {
                // The tenth byte holds one bit.
                return (shift < 63 || *byte < 2).then_some(value);
            }
        }
        None
    }
}

/// What a copied string costs.
fn text(length: usize) -> usize {
    if length == 0 { 0 } else { length.max(8) }
}
