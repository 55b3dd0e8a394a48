//! Element types, and how many bytes so many elements take.

use serde::{Deserialize, Serialize};

/// The element type of a tensor. Names are ONNX's, in lower case, shortened where the field shortens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 8-bit float, 4 exponent bits, finite only.
    F8E4M3FN,
    /// 8-bit float, 4 exponent bits, finite only, no negative zero.
    F8E4M3FNUZ,
    /// 8-bit float, 5 exponent bits.
    F8E5M2,
    /// 8-bit float, 5 exponent bits, finite only, no negative zero.
    F8E5M2FNUZ,
    /// 8-bit power-of-two scale.
    F8E8M0,
    /// 4-bit float, two to a byte.
    F4E2M1,
    /// Signed 64-bit.
    I64,
    /// Signed 32-bit.
    I32,
    /// Signed 16-bit.
    I16,
    /// Signed 8-bit.
    I8,
    /// Signed 4-bit, two to a byte.
    I4,
    /// Signed 2-bit, four to a byte.
    I2,
    /// Unsigned 64-bit.
    U64,
    /// Unsigned 32-bit.
    U32,
    /// Unsigned 16-bit.
    U16,
    /// Unsigned 8-bit.
    U8,
    /// Unsigned 4-bit, two to a byte.
    U4,
    /// Unsigned 2-bit, four to a byte.
    U2,
    /// One byte, zero or one.
    Bool,
    /// Two binary32.
    C64,
    /// Two binary64.
    C128,
    /// Strings have no size that a plan could hold; a graph may name them, a plan refuses them.
    Str,
}

impl DType {
    /// Every type, in the order of this file.
    pub const ALL: [DType; 26] = {
        use DType::*;
        [
            F32, F64, F16, BF16, F8E4M3FN, F8E4M3FNUZ, F8E5M2, F8E5M2FNUZ, F8E8M0, F4E2M1, I64, I32, I16, I8, I4, I2,
            U64, U32, U16, U8, U4, U2, Bool, C64, C128, Str,
        ]
    };

    /// Bits of one element; `None` for strings.
    pub fn bits(self) -> Option<u64> {
        use DType::*;
        Some(match self {
            C128 => 128,
            F64 | I64 | U64 | C64 => 64,
            F32 | I32 | U32 => 32,
            F16 | BF16 | I16 | U16 => 16,
            F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | I8 | U8 | Bool => 8,
            F4E2M1 | I4 | U4 => 4,
            I2 | U2 => 2,
            Str => return None,
        })
    }

    /// Bytes of `elements` elements, packed and rounded up; `None` for strings and on overflow.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        elements.checked_mul(self.bits()?).map(|bits| bits.div_ceil(8))
    }
}
