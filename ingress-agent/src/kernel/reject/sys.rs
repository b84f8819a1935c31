//! Links and pins of bpf(2) that aya has no call for: replacing a program only where a certain one still is, and telling what a pinned
//! object is before it is taken for one of ours.
#![allow(unsafe_code, reason = "bpf(2) and statfs(2) are called here")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a descriptor of bpf(2) is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// An XDP program's place on an interface; interface 0 is one that is gone.
    XdpLink {
        program: u32,
        interface: u32,
    },
    Program {
        id: u32,
        name: String,
    },
    Other,
}

const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;

/// Attaches a program to an interface; `generic`: after the packet buffer was made, as every device can.
pub(super) fn attach(program: BorrowedFd<'_>, interface: u32, generic: bool) -> io::Result<OwnedFd> {
    /// `struct { prog_fd, target_ifindex, attach_type, flags }` of `union bpf_attr`.
    #[repr(C)]
    struct Create {
        program: u32,
        interface: u32,
        kind: u32,
        flags: u32,
    }
    const BPF_XDP: u32 = 37;
    const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let mut create = Create {
        program: word(program)?,
        interface,
        kind: BPF_XDP,
        flags: if generic {
            XDP_FLAGS_SKB_MODE
        } else {
            XDP_FLAGS_DRV_MODE
        },
    };
    let link = call(LINK_CREATE, &mut create)?;
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Puts another program in a link's place at once, without a moment between the two. With `only_for`: if it is the one that is there.
pub(super) fn replace(
    link: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    only_for: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old: u32,
    }
    const BPF_F_REPLACE: u32 = 1 << 2;
    let mut update = Update {
        link: word(link)?,
        program: word(program)?,
        flags: if only_for.is_some() { BPF_F_REPLACE } else { 0 },
        old: only_for.map_or(Ok(0), word)?,
    };
    call(LINK_UPDATE, &mut update).map(|_| ())
}

/// `struct { pathname, bpf_fd, file_flags }`.
#[repr(C)]
struct Named {
    path: u64,
    object: u32,
    flags: u32,
}

/// Gives an object a name in bpffs, by which it outlives its descriptors. A name that is there already is an error.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut named = Named {
        path: path.as_ptr() as u64,
        object: word(object)?,
        flags: 0,
    };
    call(OBJ_PIN, &mut named).map(|_| ())
}

/// What has this name in bpffs.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut named = Named {
        path: path.as_ptr() as u64,
        object: 0,
        flags: 0,
    };
    let object = call(OBJ_GET, &mut named)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(object) })
}

/// By what /proc says of the descriptor: numbers of links and programs overlap, so bpf(2) itself does not tell one from the other.
pub(super) fn what_is(object: BorrowedFd<'_>) -> io::Result<Object> {
    let said = std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", object.as_raw_fd()))?;
    let field = |name: &str| {
        let mut lines = said.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let number = |name: &str| field(name).and_then(|text| text.parse().ok());
    if field("link_type") == Some("xdp") {
        return Ok(Object::XdpLink {
            program: number("prog_id").unwrap_or_default(),
            interface: number("ifindex").unwrap_or_default(),
        });
    }
    match (field("prog_type"), number("prog_id")) {
        (Some(_), Some(id)) => Ok(Object::Program {
            id,
            name: program_name(object)?,
        }),
        _ => Ok(Object::Other),
    }
}

/// `bpf_prog_info.name` (Linux 4.15).
fn program_name(program: BorrowedFd<'_>) -> io::Result<String> {
    const NAME: std::ops::Range<usize> = 64..80;
    #[repr(C)]
    struct Ask {
        object: u32,
        length: u32,
        info: u64,
    }
    // Words, for the alignment of the kernel's structure; zeros ask for no instructions and no lists.
    let mut info = [0_u64; 10];
    let mut ask = Ask {
        object: word(program)?,
        length: 80,
        info: info.as_mut_ptr() as u64,
    };
    call(OBJ_GET_INFO_BY_FD, &mut ask)?;
    let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let name = bytes.get(NAME).unwrap_or_default();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Whether a directory is in a mounted bpffs.
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: plain numbers, for which zeros are values.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a string with its end, and room for the answer.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut system) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(system.f_type).is_ok_and(|magic| magic == BPF_FS_MAGIC))
}

fn word(descriptor: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(descriptor.as_raw_fd()).map_err(io::Error::other)
}

/// `arguments`: laid out as the part of `union bpf_attr` that this command reads (linux/bpf.h); what it points to lives on in the caller.
fn call<T>(command: libc::c_long, arguments: &mut T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes, and what they point to, before it returns; it writes at most the lengths given there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(arguments),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
