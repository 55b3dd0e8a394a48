//! How far two arrays are apart: in bits, and as numbers.

use crate::npz::Array;
use berth_ir::DType;

/// How an array differs from the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Elements of each array.
    pub elements: u64,
    /// How many of them differ in at least one bit.
    pub differing: u64,
    /// The first that differs so, in C order.
    pub first: Option<u64>,
    /// Largest |got - wanted| over largest finite |wanted|. Two NaNs, or two equal infinities, at the same place are
    /// no difference; one alone is an infinite one. Infinite too where everything wanted is zero and something is not.
    pub largest: f64,
}

impl Difference {
    /// True if every bit is as wanted.
    pub fn identical(&self) -> bool {
        self.differing == 0
    }
}

/// Why two arrays cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// They are not of one type and shape.
    #[error("{got_dtype:?} of shape {got_shape:?} is compared with {want_dtype:?} of shape {want_shape:?}")]
    Unlike {
        /// Type of the one at hand.
        got_dtype: DType,
        /// Shape of the one at hand.
        got_shape: Vec<u64>,
        /// Type of the wanted one.
        want_dtype: DType,
        /// Shape of the wanted one.
        want_shape: Vec<u64>,
    },
    /// The bytes are not as many as so many elements need.
    #[error("{elements} elements of {dtype:?} are compared in {got} and {want} bytes")]
    Length {
        /// Element type.
        dtype: DType,
        /// Elements to compare.
        elements: u64,
        /// Bytes at hand.
        got: usize,
        /// Bytes wanted.
        want: usize,
    },
    /// The elements are no numbers.
    #[error("{0:?} holds no numbers")]
    NoNumbers(DType),
}

/// Compares two arrays of one type and shape; names may differ.
pub fn arrays(got: &Array, want: &Array) -> Result<Difference, CompareError> {
    if got.dtype != want.dtype || got.shape != want.shape {
        return Err(CompareError::Unlike {
            got_dtype: got.dtype,
            got_shape: got.shape.clone(),
            want_dtype: want.dtype,
            want_shape: want.shape.clone(),
        });
    }
    // A product that overflows matches no number of bytes.
    let elements = got.shape.iter().fold(1u64, |all, axis| all.saturating_mul(*axis));
    compare(got.dtype, elements, &got.bytes, &want.bytes)
}

/// Compares so many elements, packed and little endian. A complex number counts by its two parts: the larger difference
/// of the two, and `elements` in the answer are parts.
pub fn compare(dtype: DType, elements: u64, got: &[u8], want: &[u8]) -> Result<Difference, CompareError> {
    use DType::*;
    if dtype == Str {
        return Err(CompareError::NoNumbers(dtype));
    }
    let needed = dtype.bytes(elements);
    if needed != Some(got.len() as u64) || needed != Some(want.len() as u64) {
        return Err(CompareError::Length { dtype, elements, got: got.len(), want: want.len() });
    }
    let float = |value: f64| Number::Float(value);
    let whole = |value: i128| Number::Whole(value);
    Ok(match dtype {
        F64 | C128 => wide::<8>(got, want, |b| float(f64::from_le_bytes(b))),
        F32 | C64 => wide::<4>(got, want, |b| float(f32::from_le_bytes(b).into())),
        F16 => wide::<2>(got, want, |b| float(half::f16::from_le_bytes(b).into())),
        BF16 => wide::<2>(got, want, |b| float(half::bf16::from_le_bytes(b).into())),
        I64 => wide::<8>(got, want, |b| whole(i64::from_le_bytes(b).into())),
        U64 => wide::<8>(got, want, |b| whole(u64::from_le_bytes(b).into())),
        I32 => wide::<4>(got, want, |b| whole(i32::from_le_bytes(b).into())),
        U32 => wide::<4>(got, want, |b| whole(u32::from_le_bytes(b).into())),
        I16 => wide::<2>(got, want, |b| whole(i16::from_le_bytes(b).into())),
        U16 => wide::<2>(got, want, |b| whole(u16::from_le_bytes(b).into())),
        _ => narrow(dtype, elements, got, want),
    })
}

#[derive(Clone, Copy)]
enum Number {
    Float(f64),
    Whole(i128),
}

/// Gathers the difference, element by element.
#[derive(Default)]
struct Tally {
    elements: u64,
    differing: u64,
    first: Option<u64>,
    apart: f64,
    size: f64,
}

impl Tally {
    fn add(&mut self, same_bits: bool, got: Number, want: Number) {
        if !same_bits {
            self.differing += 1;
            self.first.get_or_insert(self.elements);
        }
        self.elements += 1;
        let (apart, size) = match (got, want) {
            (Number::Whole(got), Number::Whole(want)) => ((got - want).abs() as f64, want.abs() as f64),
            (Number::Float(got), Number::Float(want)) => {
                let apart = if got == want || (got.is_nan() && want.is_nan()) { 0.0 } else { (got - want).abs() };
                // A NaN alone would vanish in a maximum.
                (if apart.is_nan() { f64::INFINITY } else { apart }, want.abs())
            }
            _ => unreachable!("both are decoded the same way"),
        };
        self.apart = self.apart.max(apart);
        if size.is_finite() {
            self.size = self.size.max(size);
        }
    }

    fn finish(self) -> Difference {
        let largest = if self.apart == 0.0 { 0.0 } else { self.apart / self.size };
        Difference { elements: self.elements, differing: self.differing, first: self.first, largest }
    }
}

/// Elements of whole bytes.
fn wide<const N: usize>(got: &[u8], want: &[u8], number: impl Fn([u8; N]) -> Number) -> Difference {
    let mut tally = Tally::default();
    for (got, want) in got.as_chunks::<N>().0.iter().zip(want.as_chunks::<N>().0) {
        tally.add(got == want, number(*got), number(*want));
    }
    tally.finish()
}

/// Elements of a byte or less.
fn narrow(dtype: DType, elements: u64, got: &[u8], want: &[u8]) -> Difference {
    let bits = dtype.bits().unwrap_or(8);
    let mask = 0xff >> (8 - bits);
    let mut tally = Tally::default();
    for element in 0..elements {
        let (byte, shift) = (element * bits / 8, element * bits % 8);
        let pick = |bytes: &[u8]| (bytes[byte as usize] >> shift) & mask;
        let (got, want) = (pick(got), pick(want));
        tally.add(got == want, small(dtype, got), small(dtype, want));
    }
    tally.finish()
}

/// A number of at most eight bits.
fn small(dtype: DType, bits: u8) -> Number {
    use DType::*;
    match dtype {
        I8 => Number::Whole((bits as i8).into()),
        I4 => Number::Whole((((bits << 4) as i8) >> 4).into()),
        I2 => Number::Whole((((bits << 6) as i8) >> 6).into()),
        F8E4M3FN => Number::Float(if bits & 0x7f == 0x7f { f64::NAN } else { float(bits, 8, 3, 7) }),
        F8E4M3FNUZ => Number::Float(if bits == 0x80 { f64::NAN } else { float(bits, 8, 3, 8) }),
        F8E5M2FNUZ => Number::Float(if bits == 0x80 { f64::NAN } else { float(bits, 8, 2, 16) }),
        F8E5M2 => Number::Float(match bits & 0x7f {
            0x7c => f64::INFINITY.copysign(float(bits, 8, 2, 15)),
            0x7d..=0x7f => f64::NAN,
            _ => float(bits, 8, 2, 15),
        }),
        F8E8M0 => Number::Float(if bits == 0xff { f64::NAN } else { 2f64.powi(i32::from(bits) - 127) }),
        F4E2M1 => Number::Float(float(bits, 4, 1, 1)),
        _ => Number::Whole(bits.into()),
    }
}

/// A float of `width` bits with so many of mantissa: the value where no pattern is special.
fn float(bits: u8, width: u32, mantissa: u32, bias: i32) -> f64 {
    let sign = if bits >> (width - 1) & 1 == 1 { -1.0 } else { 1.0 };
    let fraction = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
    let exponent = i32::from((bits & ((1 << (width - 1)) - 1)) >> mantissa);
    sign * if exponent == 0 { fraction * 2f64.powi(1 - bias) } else { (1.0 + fraction) * 2f64.powi(exponent - bias) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    fn of_f32(got: &[f32], want: &[f32]) -> Difference {
        compare(DType::F32, got.len() as u64, &f32s(got), &f32s(want)).unwrap()
    }

    #[test]
    fn the_largest_difference_is_relative_to_the_largest_value() {
        let difference = of_f32(&[1.0, -4.0, 2.5], &[1.0, -4.0, 2.0]);
        assert_eq!(difference, Difference { elements: 3, differing: 1, first: Some(2), largest: 0.125 });
        assert!(of_f32(&[1.0], &[1.0]).identical());
        assert_eq!(of_f32(&[], &[]).largest, 0.0);
    }

    #[test]
    fn zeros_infinities_and_nans() {
        assert_eq!(of_f32(&[0.0], &[-0.0]), Difference { elements: 1, differing: 1, first: Some(0), largest: 0.0 });
        assert_eq!(of_f32(&[1e-9], &[0.0]).largest, f64::INFINITY);
        assert_eq!(of_f32(&[f32::NAN, 1.0], &[f32::NAN, 1.0]).largest, 0.0);
        assert_eq!(of_f32(&[f32::NAN, 1.0], &[0.0, 1.0]).largest, f64::INFINITY);
        assert_eq!(of_f32(&[0.0, 1.0], &[f32::NAN, 1.0]).largest, f64::INFINITY);
        assert_eq!(of_f32(&[f32::INFINITY, 1.5], &[f32::INFINITY, 1.0]).largest, 0.5);
        assert_eq!(of_f32(&[f32::INFINITY], &[f32::NEG_INFINITY]).largest, f64::INFINITY);
        // Another NaN is the same number in other bits.
        let quiet = f32::from_bits(0x7fc0_0001);
        assert_eq!(of_f32(&[quiet], &[f32::NAN]).differing, 1);
    }

    #[test]
    fn whole_numbers_are_exact() {
        let (got, want) = ((i64::MAX).to_le_bytes(), (i64::MAX - 1).to_le_bytes());
        let difference = compare(DType::I64, 1, &got, &want).unwrap();
        assert!(difference.largest > 0.0 && difference.largest < 1e-18);
        assert_eq!(compare(DType::U8, 2, &[0, 255], &[255, 255]).unwrap().largest, 1.0);
        assert_eq!(compare(DType::I8, 1, &[0x80], &[0x7f]).unwrap().largest, 255.0 / 127.0);
        assert_eq!(compare(DType::Bool, 1, &[1], &[1]).unwrap().differing, 0);
        // The upper half of the last byte is padding.
        let difference = compare(DType::I4, 3, &[0x21, 0xff], &[0x21, 0x0f]).unwrap();
        assert_eq!(difference, Difference { elements: 3, differing: 0, first: None, largest: 0.0 });
    }

    #[test]
    fn small_floats_have_their_values() {
        let value = |dtype, bits| match small(dtype, bits) {
            Number::Float(value) => value,
            Number::Whole(_) => panic!("a float"),
        };
        assert_eq!(value(DType::F8E4M3FN, 0x7e), 448.0);
        assert_eq!(value(DType::F8E4M3FN, 0x01), 2f64.powi(-9));
        assert_eq!(value(DType::F8E5M2, 0x7b), 57344.0);
        assert_eq!(value(DType::F8E5M2, 0xfc), f64::NEG_INFINITY);
        assert_eq!(value(DType::F8E4M3FNUZ, 0x7f), 240.0);
        assert_eq!(value(DType::F8E5M2FNUZ, 0x7f), 57344.0);
        assert_eq!(value(DType::F8E8M0, 127), 1.0);
        assert_eq!(value(DType::F4E2M1, 0x0f), -6.0);
        assert_eq!(value(DType::F4E2M1, 0x01), 0.5);
        assert_eq!(compare(DType::F16, 1, &[0x00, 0x3c], &[0x00, 0x40]).unwrap().largest, 0.5);
        assert_eq!(compare(DType::BF16, 1, &[0x80, 0x3f], &[0x00, 0x40]).unwrap().largest, 0.5);
    }

    #[test]
    fn every_type_is_compared_or_refused() {
        for dtype in DType::ALL {
            match compare(dtype, 3, &[0; 48][..dtype.bytes(3).unwrap_or(0) as usize], &[0; 0]) {
                Err(CompareError::NoNumbers(refused)) => assert_eq!(refused, DType::Str),
                Err(CompareError::Length { .. }) => {}
                other => panic!("{dtype:?}: {other:?}"),
            }
            if let Some(bytes) = dtype.bytes(3) {
                let zeros = vec![0; bytes as usize];
                assert!(compare(dtype, 3, &zeros, &zeros).unwrap().identical());
            }
        }
        let array =
            |shape: &[u64]| Array { name: "a".into(), dtype: DType::U8, shape: shape.to_vec(), bytes: vec![0; 6] };
        assert!(matches!(arrays(&array(&[2, 3]), &array(&[3, 2])), Err(CompareError::Unlike { .. })));
        assert!(arrays(&array(&[2, 3]), &array(&[2, 3])).unwrap().identical());
    }
}
