//! Initializers and constants: what they are, and where their bytes lie.

use super::limits::{KNOWN_MAX, RANK_MAX};
use super::onnx::TensorProto;
use super::{ImportError, Model, external};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Attribute, Content, Stored};
use bytes::Bytes;

/// The type that ONNX numbers so.
pub fn dtype_from_onnx(number: i32) -> Option<DType> {
    use DType::*;
    Some(match number {
        1 => F32,
        2 => U8,
        3 => I8,
        4 => U16,
        5 => I16,
        6 => I32,
        7 => I64,
        8 => Str,
        9 => Bool,
        10 => F16,
        11 => F64,
        12 => U32,
        13 => U64,
        14 => C64,
        15 => C128,
        16 => BF16,
        17 => F8E4M3FN,
        18 => F8E4M3FNUZ,
        19 => F8E5M2,
        20 => F8E5M2FNUZ,
        21 => U4,
        22 => I4,
        23 => F4E2M1,
        24 => F8E8M0,
        25 => U2,
        26 => I2,
        _ => return None,
    })
}

/// The number that ONNX gives a type.
pub fn dtype_to_onnx(dtype: DType) -> i32 {
    (1..=26).find(|number| dtype_from_onnx(*number) == Some(dtype)).unwrap_or(0)
}

/// An initializer or constant, described.
pub(super) struct Tensor {
    pub dtype: DType,
    pub dims: Vec<u64>,
    pub content: Content,
    /// The bytes, where the model file or this message holds them.
    pub data: Option<Bytes>,
}

/// Describes a tensor: type, shape, where the bytes are. Small integer ones are known while `folds_left` allows it.
pub(super) fn describe(tensor: &TensorProto, model: &Model, folds_left: &mut usize) -> Result<Tensor, ImportError> {
    let fail = |problem: String| ImportError::Tensor { name: tensor.name.clone(), problem };
    let Some(dtype) = dtype_from_onnx(tensor.data_type) else {
        return Err(fail(format!("element type {} is not known", tensor.data_type)));
    };
    if dtype == DType::Str {
        return Err(fail("strings have no size that a plan could hold".to_owned()));
    }
    if tensor.dims.len() > RANK_MAX {
        return Err(fail(format!("it has {} axes, at most {RANK_MAX} are supported", tensor.dims.len())));
    }
    let mut dims = Vec::with_capacity(tensor.dims.len());
    let mut elements = 1u64;
    for dim in &tensor.dims {
        let dim = u64::try_from(*dim).map_err(|_| fail(format!("dimension {dim} is negative")))?;
        dims.push(dim);
        elements = elements
            .checked_mul(dim)
            .ok_or_else(|| fail(format!("shape {:?} does not fit in 64 bits", tensor.dims)))?;
    }
    let Some(bytes) = dtype.bytes(elements) else {
        return Err(fail(format!("shape {:?} does not fit in 64 bits", tensor.dims)));
    };
    let folder = model.path.parent().unwrap_or(&model.path);
    if tensor.data_location == 1 {
        if !tensor.raw_data.is_empty() || typed_lists(tensor) > 0 {
            return Err(fail("it has both external data and data in the model file".to_owned()));
        }
        let stored = external::resolve(tensor, bytes, folder)?;
        return Ok(Tensor { dtype, dims, content: Content::Stored(stored), data: None });
    }
    if !tensor.external_data.is_empty() {
        return Err(fail("it names external data but is not marked as external".to_owned()));
    }
    let data = data(tensor, dtype, elements).map_err(fail)?;
    if data.len() as u64 != bytes {
        let held = data.len();
        return Err(fail(format!("{held} bytes are there, but shape {:?} of {dtype:?} needs {bytes}", tensor.dims)));
    }
    let known = integers(dtype, elements, &data).filter(|known| known.len() <= *folds_left);
    *folds_left -= known.as_ref().map_or(0, Vec::len);
    let content = match (known, offset_in(&model.file, &data)) {
        (Some(known), _) => Content::Known(known),
        (None, Some(offset)) => {
            let file = model.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Content::Stored(Stored { path: model.path.clone(), file, offset, bytes, present: true, own: true })
        }
        (None, None) => Content::Inline(data.clone()),
    };
    Ok(Tensor { dtype, dims, content, data: Some(data) })
}

/// The bytes of the tensor in an attribute, little-endian and packed; nothing where it holds none, or none that fit it.
pub fn tensor_bytes(attribute: &Attribute) -> Option<Bytes> {
    let Attribute::Message(bytes) = attribute else { return None };
    let message: super::onnx::AttributeProto = prost::Message::decode(bytes.clone()).ok()?;
    Some(packed(&*message.t?)?.1)
}

/// Type and bytes of a tensor that its message holds; nothing where they do not fit each other.
pub(super) fn packed(tensor: &TensorProto) -> Option<(DType, Bytes)> {
    let dtype = dtype_from_onnx(tensor.data_type)?;
    let elements = tensor.dims.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::try_from(*dim).ok()?))?;
    let data = data(tensor, dtype, elements).ok()?;
    (Some(data.len() as u64) == dtype.bytes(elements)).then_some((dtype, data))
}

/// Where a slice lies in the file that it was cut from.
fn offset_in(file: &Bytes, data: &Bytes) -> Option<u64> {
    if data.is_empty() {
        return None;
    }
    let offset = (data.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
    (offset.checked_add(data.len())? <= file.len()).then_some(offset as u64)
}

/// How many of the typed lists hold something.
fn typed_lists(tensor: &TensorProto) -> usize {
    let lists = [
        !tensor.float_data.is_empty(),
        !tensor.double_data.is_empty(),
        !tensor.int32_data.is_empty(),
        !tensor.int64_data.is_empty(),
        !tensor.uint64_data.is_empty(),
        !tensor.string_data.is_empty(),
    ];
    lists.iter().filter(|held| **held).count()
}

/// The bytes, little-endian and packed; a slice of the file where the file has them so.
fn data(tensor: &TensorProto, dtype: DType, elements: u64) -> Result<Bytes, String> {
    use DType::*;
    let lists = typed_lists(tensor);
    if !tensor.raw_data.is_empty() {
        return if lists == 0 { Ok(tensor.raw_data.clone()) } else { Err("it has raw and typed data".to_owned()) };
    }
    if lists == 0 {
        return Ok(Bytes::new());
    }
    let wrong = || Err(format!("its data is not in the list that {dtype:?} uses"));
    if lists > 1 {
        return Err("it has several lists of data".to_owned());
    }
    // Lists are as long as the decoder made them, so nothing here is larger than the file times eight.
    let count = |held: usize, per: u64| {
        if held as u64 == elements.div_ceil(per) {
            Ok(())
        } else {
            Err(format!("{held} entries for {elements} elements"))
        }
    };
    Ok(match dtype {
        F32 | C64 if !tensor.float_data.is_empty() => tensor.float_data.clone(),
        F64 | C128 if !tensor.double_data.is_empty() => tensor.double_data.clone(),
        I64 if !tensor.int64_data.is_empty() => {
            count(tensor.int64_data.len(), 1)?;
            tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()
        }
        U64 | U32 if !tensor.uint64_data.is_empty() => {
            count(tensor.uint64_data.len(), 1)?;
            let width = if dtype == U64 { 8 } else { 4 };
            let bytes = tensor.uint64_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width));
            bytes.collect::<Vec<u8>>().into()
        }
        F32 | C64 | F64 | C128 | I64 | U64 | U32 | Str => return wrong(),
        _ if tensor.int32_data.is_empty() => return wrong(),
        _ => {
            let bits = dtype.bits().unwrap_or(8);
            let width = (bits / 8).max(1) as usize;
            count(tensor.int32_data.len(), 8u64.div_ceil(bits))?;
            let bytes = tensor.int32_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(width));
            bytes.collect::<Vec<u8>>().into()
        }
    })
}

/// The elements of a small integer tensor.
pub(super) fn integers(dtype: DType, elements: u64, data: &[u8]) -> Option<Vec<Expr>> {
    if elements > KNOWN_MAX {
        return None;
    }
    Some(match dtype {
        DType::I64 => {
            data.chunks_exact(8).map(|c| Expr::constant(i64::from_le_bytes(c.try_into().unwrap_or_default()))).collect()
        }
        DType::I32 => {
            data.chunks_exact(4).map(|c| Expr::constant(i32::from_le_bytes(c.try_into().unwrap_or_default()))).collect()
        }
        DType::Bool => data.iter().map(|b| Expr::constant(i128::from(*b != 0))).collect(),
        _ => return None,
    })
}
