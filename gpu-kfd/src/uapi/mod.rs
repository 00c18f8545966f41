//! The numbers of AMD's kernel interfaces: argument layouts, request numbers, flags, packets.
//!
//! Only numbers: nothing here makes a call. Each layout is written with the offset of every field
//! and its size; both are checked when this is compiled, and a test compares them with the C
//! headers of the machine. The facts are those of Linux up to 6.18 (`kfd_ioctl.h`, `amdgpu_drm.h`,
//! `drm.h`; the newest ones also stand in the copies that CRIU 4.2 ships) unless said otherwise.
//!
//! Names are the C names without prefix and in Rust's spelling; a field is named as in C unless
//! that is a keyword. A field whose name begins with `_` is padding: write 0. A C union of input
//! and output is two types of one size, `...In` and `...Out`.

/// A layout, for checks against a C header.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The C type, such as `struct kfd_ioctl_svm_args`; empty if no header has it.
    pub c_type: &'static str,
    /// Size in bytes.
    pub size_bytes: usize,
    /// The fields in order.
    pub fields: &'static [Field],
}

impl Layout {
    /// Whether a header for programs has it; private records of the driver are in none.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        !self.c_type.is_empty()
    }
}

/// A field of a [`Layout`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// How C writes it; with a dot where it is inside a nested struct.
    pub c_name: &'static str,
    /// Offset from the start of the struct, in bytes.
    pub offset_bytes: usize,
    /// Size in bytes.
    pub size_bytes: usize,
}

impl Field {
    /// Whether nobody reads it.
    #[must_use]
    pub fn is_padding(&self) -> bool {
        self.c_name.starts_with('_')
    }
}

/// A request number by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name without the interface's prefix, such as `GET_VERSION`.
    pub name: &'static str,
    /// Name in the C header, such as `AMDKFD_IOC_GET_VERSION`.
    pub c_name: &'static str,
    /// The whole request number: direction, size of the argument, type byte, number.
    pub number: u32,
}

/// A constant by its C name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// Name in the C header.
    pub c_name: &'static str,
    /// Its value.
    pub value: i64,
}

/// Size of the argument that a request number claims, in bytes.
///
/// The drivers take it as the caller's view: they copy that many bytes and fill the rest of a
/// newer struct with zeros.
#[must_use]
pub const fn argument_bytes(request: u32) -> usize {
    ((request >> 16) & 0x3fff) as usize
}

/// The request with another size of argument: what a program asks that was built with an older or
/// newer header, or that passes an argument of variable length.
///
/// # Panics
///
/// If `bytes` does not fit into the 14 bits of the field.
#[must_use]
pub const fn with_argument_bytes(request: u32, bytes: usize) -> u32 {
    assert!(bytes < 1 << 14);
    (request & !(0x3fff << 16)) | (bytes as u32) << 16
}

/// Whether two requests reach the same handler: the drivers look at type byte and number only.
#[must_use]
pub const fn same_call(a: u32, b: u32) -> bool {
    a & 0xffff == b & 0xffff
}

const fn find(requests: &'static [Request], number: u32) -> Option<&'static Request> {
    let mut index = 0;
    while index < requests.len() {
        if same_call(requests[index].number, number) {
            return Some(&requests[index]);
        }
        index += 1;
    }
    None
}

/// The layouts that a C header knows, by interface: compute driver, then render node.
#[must_use]
pub fn layouts() -> [&'static [&'static [Layout]]; 2] {
    [
        &[kfd::LAYOUTS, events::LAYOUTS, svm::LAYOUTS, debug::LAYOUTS, criu::LAYOUTS],
        &[drm::LAYOUTS, amdgpu::LAYOUTS, submit::LAYOUTS, info::LAYOUTS],
    ]
}

/// The requests, by interface as in [`layouts`].
#[must_use]
pub fn requests() -> [&'static [&'static [Request]]; 2] {
    [&[kfd::REQUESTS], &[drm::REQUESTS, amdgpu::REQUESTS]]
}

/// The constants, by interface as in [`layouts`].
#[must_use]
pub fn numbers() -> [&'static [&'static [Number]]; 2] {
    [
        &[kfd::NUMBERS, events::NUMBERS, svm::NUMBERS, debug::NUMBERS, criu::NUMBERS],
        &[drm::NUMBERS, amdgpu::NUMBERS, submit::NUMBERS, info::NUMBERS],
    ]
}

/// Declares layouts: `struct Name = "C type", size { [offset] field: type }`. A field may give its
/// name in C after its own. All of a file stand in one call, which makes its `LAYOUTS`.
macro_rules! define_layouts {
    ($(
        $(#[doc = $doc:literal])+
        struct $name:ident = $c_type:literal, $size:literal {
            $(
                $(#[doc = $field_doc:literal])*
                [$offset:literal] $field:ident $($c_name:literal)?: $type:ty,
            )*
        }
    )*) => {
        $(
            $(#[doc = $doc])+
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
            #[allow(missing_docs)] // a field whose name says all is documented by its struct
            pub struct $name {
                $( $(#[doc = $field_doc])* pub $field: $type, )*
            }

            impl Default for $name {
                fn default() -> Self {
                    bytemuck::Zeroable::zeroed()
                }
            }

            const _: () = {
                assert!(size_of::<$name>() == $size);
                $( assert!(std::mem::offset_of!($name, $field) == $offset); )*
            };
        )*

        /// The layouts of this file.
        pub const LAYOUTS: &[crate::uapi::Layout] = &[$(
            crate::uapi::Layout {
                c_type: $c_type,
                size_bytes: $size,
                fields: &[$(
                    crate::uapi::Field {
                        c_name: c_name!($field $($c_name)?),
                        offset_bytes: $offset,
                        size_bytes: size_of::<$type>(),
                    },
                )*],
            },
        )*];
    };
}

/// The second name if there is one.
macro_rules! c_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $c_name:literal) => {
        $c_name
    };
}

/// Declares request numbers in a module `ioc`, and the table `REQUESTS`.
macro_rules! define_requests {
    ($prefix:literal, $kind:literal; $(
        $(#[doc = $doc:literal])+
        $name:ident = $how:ident $nr:expr, $argument:ty;
    )*) => {
        /// Request numbers.
        pub mod ioc {
            use super::*;
            $(
                $(#[doc = $doc])+
                pub const $name: u32 =
                    ioctl_sys::$how!($kind, $nr, size_of::<$argument>());
            )*
        }

        /// The request numbers of this file.
        pub const REQUESTS: &[crate::uapi::Request] = &[$(
            crate::uapi::Request {
                name: stringify!($name),
                c_name: concat!($prefix, stringify!($name)),
                number: ioc::$name,
            },
        )*];
    };
}

/// Declares constants, a module for each group, and the table `NUMBERS`.
macro_rules! define_numbers {
    ($(
        $(#[doc = $doc:literal])+
        mod $group:ident: $type:ty = $prefix:literal {
            $( $(#[doc = $number_doc:literal])* $name:ident = $value:expr; )*
        }
    )*) => {
        $(
            $(#[doc = $doc])+
            #[allow(missing_docs)] // a number whose name says all is documented by its group
            pub mod $group {
                $( $(#[doc = $number_doc])* pub const $name: $type = $value; )*
            }
        )*

        /// The constants of this file.
        pub const NUMBERS: &[crate::uapi::Number] = &[$($(
            crate::uapi::Number {
                c_name: concat!($prefix, stringify!($name)),
                value: $group::$name as i64,
            },
        )*)*];
    };
}

pub mod amdgpu;
pub mod aql;
pub mod criu;
pub mod debug;
pub mod drm;
pub mod events;
pub mod info;
pub mod kfd;
pub mod sdma;
pub mod submit;
pub mod svm;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_known_whatever_size_its_caller_gives() {
        let longer = with_argument_bytes(kfd::ioc::SVM, 24 + 5 * 8);
        assert_eq!(argument_bytes(longer), 64);
        assert_eq!(kfd::name_of(longer), Some("SVM"));
        assert_eq!(amdgpu::name_of(amdgpu::ioc::GEM_LIST_HANDLES), Some("GEM_LIST_HANDLES"));
        assert_eq!(amdgpu::name_of(drm::ioc::GEM_CHANGE_HANDLE), Some("GEM_CHANGE_HANDLE"));
        assert_eq!(kfd::name_of(drm::ioc::VERSION), None);
    }

    #[test]
    fn no_two_requests_of_an_interface_reach_the_same_handler() {
        for interface in requests() {
            let all: Vec<&Request> = interface.iter().copied().flatten().collect();
            for (index, request) in all.iter().enumerate() {
                for other in &all[index + 1..] {
                    assert!(!same_call(request.number, other.number), "{request:?} {other:?}");
                }
            }
        }
    }
}
