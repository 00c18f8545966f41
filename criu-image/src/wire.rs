//! Checks the bytes of a record against the schema before they are decoded.
//!
//! prost drops fields that it does not know and invents values for required ones that are missing.
//! For a restorer both are ways to bring back something else than what was saved. So every
//! payload is walked first: unknown fields, wrong wire types, unknown enum values, repeated
//! singular fields, missing required ones and lengths beyond the end are errors with their place.
//! It allocates nothing and does not decode.

use crate::schema::{self, Count, Field, Kind};

/// Messages may hold messages this deep. The deepest of CRIU 4.2's, cgroup directories, follow the
/// depth of the cgroup tree.
pub(crate) const DEPTH_MAX: usize = 64;

/// What is wrong with a payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The payload ends inside a field.
    #[error("{message} is cut short")]
    Cut {
        /// Message that was being read.
        message: &'static str,
    },
    /// A field that this version does not know; ignoring it could restore something else.
    #[error("{message} has field {number}, which CRIU 4.2 does not define")]
    UnknownField {
        /// Message.
        message: &'static str,
        /// Field number.
        number: u32,
    },
    /// A field with another wire type than the schema's.
    #[error("{message}.{field} has wire type {wire_type}")]
    WireType {
        /// Message.
        message: &'static str,
        /// Field.
        field: &'static str,
        /// Wire type found.
        wire_type: u8,
    },
    /// A value outside the range of the field's type.
    #[error("{message}.{field} has value {value:#x}, which its type cannot hold")]
    Range {
        /// Message.
        message: &'static str,
        /// Field.
        field: &'static str,
        /// Value found.
        value: u64,
    },
    /// An enum value that this version does not know.
    #[error("{message}.{field} has value {value}, which CRIU 4.2 does not define")]
    UnknownValue {
        /// Message.
        message: &'static str,
        /// Field.
        field: &'static str,
        /// Value found.
        value: u64,
    },
    /// A singular field that occurs twice.
    #[error("{message}.{field} occurs twice")]
    Twice {
        /// Message.
        message: &'static str,
        /// Field.
        field: &'static str,
    },
    /// A required field that does not occur.
    #[error("{message}.{field} is missing")]
    Missing {
        /// Message.
        message: &'static str,
        /// Field.
        field: &'static str,
    },
    /// Messages within messages beyond any real image.
    #[error("{message} is nested more than {DEPTH_MAX} deep")]
    TooDeep {
        /// Message.
        message: &'static str,
    },
}

impl WireError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Cut { .. } => "images.message-cut",
            Self::UnknownField { .. } => "images.unknown-field",
            Self::WireType { .. } => "images.field-type",
            Self::Range { .. } => "images.field-range",
            Self::UnknownValue { .. } => "images.unknown-value",
            Self::Twice { .. } => "images.field-twice",
            Self::Missing { .. } => "images.field-missing",
            Self::TooDeep { .. } => "images.nesting",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Cut { .. } => Some("copy the file again, or dump again"),
            Self::UnknownField { .. } => {
                Some("dump with CRIU 4.2 or with thaw: another version may have written it")
            }
            Self::WireType { .. } => Some("copy the file again, or dump again"),
            Self::Range { .. } => Some("copy the file again, or dump again"),
            Self::UnknownValue { .. } => {
                Some("dump with CRIU 4.2 or with thaw: another version may have written it")
            }
            Self::Twice { .. } => Some("copy the file again, or dump again"),
            Self::Missing { .. } => Some("copy the file again, or dump again"),
            Self::TooDeep { .. } => Some("copy the file again, or dump again"),
        }
    }
}

/// A fault and where it is, in bytes from the start of the payload.
pub(crate) type Fault = (usize, WireError);

/// Walks `payload` as the message with this index.
pub(crate) fn check(index: usize, payload: &[u8]) -> Result<(), Fault> {
    Walk { bytes: payload, at: 0, lenient: false, ordered: true }.message(index, payload.len(), 0)
}

/// The same, but unknown fields and enum values pass. Returns whether the fields of every message
/// stand in ascending order, as all writers put them.
pub(crate) fn check_known(index: usize, payload: &[u8]) -> Result<bool, Fault> {
    let mut walk = Walk { bytes: payload, at: 0, lenient: true, ordered: true };
    walk.message(index, payload.len(), 0)?;
    Ok(walk.ordered)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What the schema does not know passes.
    lenient: bool,
    ordered: bool,
}

impl Walk<'_> {
    fn message(&mut self, index: usize, end: usize, depth: usize) -> Result<(), Fault> {
        let message = schema::message(index);
        let name = message.name;
        if depth > DEPTH_MAX {
            return Err((self.at, WireError::TooDeep { message: name }));
        }
        let begin = self.at;
        let mut seen: u64 = 0;
        let mut guess = 0;
        let mut last = 0;
        while self.at < end {
            let field_at = self.at;
            let tag = self.varint(end, name)?;
            let (number, wire_type) = ((tag >> 3) as u32, (tag & 7) as u8);
            if tag >> 32 != 0 {
                return Err((field_at, WireError::UnknownField { message: name, number }));
            }
            self.ordered &= number >= last;
            last = number;
            let Some(position) = message.position(number, guess) else {
                let fault = (field_at, WireError::UnknownField { message: name, number });
                self.unknown(name, wire_type, end, fault)?;
                continue;
            };
            let field = &message.fields[position];
            guess = position + usize::from(field.count != Count::Repeated);
            if seen >> position & 1 != 0 && field.count != Count::Repeated {
                let fault = WireError::Twice { message: name, field: field.name };
                return Err((field_at, fault));
            }
            seen |= 1 << position;
            self.field(name, field, wire_type, end, depth)
                .map_err(|(at, fault)| (at.max(field_at), fault))?;
        }
        match message.required & !seen {
            0 => Ok(()),
            missing => {
                let field = message.fields[missing.trailing_zeros() as usize].name;
                Err((begin, WireError::Missing { message: name, field }))
            }
        }
    }

    /// Passes over a field that the schema does not have, if it may be there.
    #[cold]
    fn unknown(
        &mut self,
        message: &'static str,
        wire_type: u8,
        end: usize,
        fault: Fault,
    ) -> Result<(), Fault> {
        let is_zero = matches!(fault.1, WireError::UnknownField { number: 0, .. });
        match wire_type {
            _ if !self.lenient || is_zero => Err(fault),
            0 => self.varint(end, message).map(|_| ()),
            1 => self.skip(8, end, message),
            2 => {
                let len = self.length(end, message)?;
                self.skip(len, end, message)
            }
            5 => self.skip(4, end, message),
            _ => Err(fault),
        }
    }

    #[inline]
    fn field(
        &mut self,
        message: &'static str,
        field: &Field,
        wire_type: u8,
        end: usize,
        depth: usize,
    ) -> Result<(), Fault> {
        let wrong_type =
            Err((self.at, WireError::WireType { message, field: field.name, wire_type }));
        match (field.kind, wire_type) {
            (Kind::Fixed64, 1) => self.skip(8, end, message),
            (Kind::Bytes | Kind::Text, 2) => {
                let len = self.length(end, message)?;
                self.skip(len, end, message)
            }
            (Kind::Message(index), 2) => {
                let len = self.length(end, message)?;
                let inner_end = self.at + len;
                self.message(usize::from(index), inner_end, depth + 1)
            }
            (Kind::Fixed64 | Kind::Bytes | Kind::Text | Kind::Message(_), 0) => wrong_type,
            (_, 0) => self.scalar(message, field, end),
            (_, 2) if field.count == Count::Repeated => {
                let len = self.length(end, message)?;
                self.packed(message, field, self.at + len)
            }
            _ => wrong_type,
        }
    }

    fn packed(&mut self, message: &'static str, field: &Field, end: usize) -> Result<(), Fault> {
        while self.at < end {
            match field.kind {
                Kind::Fixed64 => self.skip(8, end, message)?,
                _ => self.scalar(message, field, end)?,
            }
        }
        Ok(())
    }

    #[inline]
    fn scalar(&mut self, message: &'static str, field: &Field, end: usize) -> Result<(), Fault> {
        let at = self.at;
        let value = self.varint(end, message)?;
        let name = field.name;
        match field.kind {
            Kind::Uint32 | Kind::Sint32 if value >> 32 != 0 => {
                Err((at, WireError::Range { message, field: name, value }))
            }
            Kind::Int32 if i32::try_from(value as i64).is_err() => {
                Err((at, WireError::Range { message, field: name, value }))
            }
            Kind::Bool if value > 1 => Err((at, WireError::Range { message, field: name, value })),
            Kind::Enum(index) if !self.is_value_of(index, value) => {
                Err((at, WireError::UnknownValue { message, field: name, value }))
            }
            _ => Ok(()),
        }
    }

    /// Whether a varint may be a value of the enum.
    fn is_value_of(&self, index: u16, value: u64) -> bool {
        i32::try_from(value as i64)
            .is_ok_and(|value| self.lenient || schema::enumeration(index).contains(value))
    }

    #[inline(always)]
    fn varint(&mut self, end: usize, message: &'static str) -> Result<u64, Fault> {
        let begin = self.at;
        // Most are of one byte. That way must be short: it is taken ten times for each page run.
        if begin < end
            && let Some(&byte) = self.bytes.get(begin)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(byte));
        }
        self.long_varint(end).ok_or((begin, WireError::Cut { message }))
    }

    /// `None` if it ends beyond `end`, or has more than 64 bits.
    fn long_varint(&mut self, end: usize) -> Option<u64> {
        let mut value = 0u64;
        for (index, &byte) in self.bytes[self.at..end].iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Some(value);
            }
        }
        None
    }

    fn length(&mut self, end: usize, message: &'static str) -> Result<usize, Fault> {
        let at = self.at;
        let len = self.varint(end, message)?;
        if len > (end - self.at) as u64 {
            return Err((at, WireError::Cut { message }));
        }
        Ok(len as usize)
    }

    fn skip(&mut self, len: usize, end: usize, message: &'static str) -> Result<(), Fault> {
        if len > end - self.at {
            return Err((self.at, WireError::Cut { message }));
        }
        self.at += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{WireError, check, check_known};
    use crate::schema::message_index;

    fn fault(name: &str, payload: &[u8]) -> Option<(usize, WireError)> {
        check(message_index(name), payload).err()
    }

    #[test]
    fn well_formed_record_passes() {
        // RlimitEntry { cur: 1, max: 300 }
        assert_eq!(fault("RlimitEntry", &[8, 1, 16, 0xac, 2]), None);
        // PstreeEntry with packed and unpacked threads.
        assert_eq!(fault("PstreeEntry", &[8, 1, 16, 0, 24, 1, 32, 1, 40, 1, 42, 2, 5, 6]), None);
    }

    #[test]
    fn unknown_field_is_named_with_its_place() {
        let expected = WireError::UnknownField { message: "RlimitEntry", number: 3 };
        assert_eq!(fault("RlimitEntry", &[8, 1, 16, 2, 24, 7]), Some((4, expected)));
    }

    #[test]
    fn what_is_unknown_passes_where_it_is_kept() {
        let index = message_index("FdinfoEntry");
        let with = |rest: &[u8]| [&[8, 1, 16, 0, 24, 99, 32, 0], rest].concat();
        assert_eq!(check_known(index, &with(&[])), Ok(true), "an enum value");
        assert_eq!(check_known(index, &with(&[48, 1, 57, 0, 0, 0, 0, 0, 0, 0, 0])), Ok(true));
        assert_eq!(check_known(index, &with(&[66, 1, 7, 77, 0, 0, 0, 0])), Ok(true));
        for cut in [&[48][..], &[57, 0], &[66, 9], &[77, 0], &[51], &[0, 0]] {
            assert!(check_known(index, &with(cut)).is_err(), "{cut:?}");
        }
        assert!(check_known(index, &[8, 1, 16, 0, 24, 99]).is_err(), "a field is missing");
    }

    #[test]
    fn order_of_fields_is_told() {
        let index = message_index("RlimitEntry");
        assert_eq!(check_known(index, &[8, 1, 16, 2]), Ok(true));
        assert_eq!(check_known(index, &[16, 2, 8, 1]), Ok(false));
        let nested = message_index("TaskRlimitsEntry");
        assert_eq!(check_known(nested, &[10, 4, 16, 2, 8, 1]), Ok(false));
    }

    #[test]
    fn missing_required_field_is_not_zero() {
        let expected = WireError::Missing { message: "RlimitEntry", field: "max" };
        assert_eq!(fault("RlimitEntry", &[8, 1]), Some((0, expected)));
    }

    #[test]
    fn repeated_singular_field_is_refused() {
        let expected = WireError::Twice { message: "RlimitEntry", field: "cur" };
        assert_eq!(fault("RlimitEntry", &[8, 1, 8, 2]), Some((2, expected)));
    }

    #[test]
    fn every_cut_of_a_record_is_an_error() {
        let whole = [8, 1, 16, 0xac, 2];
        for len in 0..whole.len() {
            assert!(fault("RlimitEntry", &whole[..len]).is_some(), "cut at {len}");
        }
    }

    #[test]
    fn wrong_wire_type_and_value_are_refused() {
        assert!(matches!(fault("RlimitEntry", &[9]), Some((_, WireError::WireType { .. }))));
        let too_large = [8, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(fault("FsEntry", &too_large), Some((_, WireError::Range { .. }))));
        let no_such_kind = [8, 1, 16, 0, 24, 99, 32, 0];
        let fault = fault("FdinfoEntry", &no_such_kind);
        assert!(matches!(fault, Some((_, WireError::UnknownValue { .. }))));
    }

    #[test]
    fn signed_numbers_keep_their_sign_and_range() {
        // TaskCoreEntry.oom_score_adj is field 14, an int32.
        let with = |score: &[u8]| {
            let mut payload = vec![8, 1, 16, 0, 24, 0, 32, 0, 40, 0, 50, 0, 112];
            payload.extend(score);
            fault("TaskCoreEntry", &payload)
        };
        let minus_one = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(with(&minus_one), None);
        let two_to_the_31 = [0x80, 0x80, 0x80, 0x80, 8];
        assert!(matches!(with(&two_to_the_31), Some((13, WireError::Range { .. }))));
    }

    #[test]
    fn field_number_zero_is_refused() {
        let expected = WireError::UnknownField { message: "RlimitEntry", number: 0 };
        assert_eq!(fault("RlimitEntry", &[8, 1, 16, 2, 0, 0]), Some((4, expected)));
    }

    #[test]
    fn messages_nested_without_end_are_refused() {
        let mut payload = vec![10, 0];
        for _ in 0..1000 {
            let mut outer = vec![10, 0, 18];
            let mut len = payload.len();
            while len >= 0x80 {
                outer.push(len as u8 | 0x80);
                len >>= 7;
            }
            outer.push(len as u8);
            outer.extend(payload);
            payload = outer;
        }
        let fault = fault("CgroupDirEntry", &payload);
        assert!(matches!(fault, Some((_, WireError::TooDeep { .. }))), "{fault:?}");
    }

    #[test]
    fn endless_varint_is_an_error() {
        assert!(fault("RlimitEntry", &[0xff; 12]).is_some());
    }
}
