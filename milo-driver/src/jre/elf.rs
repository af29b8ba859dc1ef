//! As much of an ELF file's headers as says for which machine a program is, and which loader starts it. The layout is
//! that of `elf(5)`; nothing else of the file is read.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// The program header that names the loader.
const PT_INTERP: u32 = 3;

/// Real programs have about a dozen program headers.
const MOST_HEADERS: u16 = 128;

/// No path is longer.
const LONGEST_PATH: u64 = 4096;

/// What a program needs of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// The machine, as `uname -m` calls it.
    pub(super) arch: String,
    /// The loader; a static program has none.
    pub(super) loader: Option<PathBuf>,
}

impl Needs {
    /// Reads them from a program.
    pub(super) fn of(program: &Path) -> io::Result<Self> {
        Self::read(&mut File::open(program)?)
    }

    fn read(file: &mut (impl Read + Seek)) -> io::Result<Self> {
        let mut ident = [0; 64];
        let length = fill(file, &mut ident)?;
        let header = Fields::new(&ident[..length]).ok_or_else(|| invalid("not an ELF program"))?;
        Ok(Self {
            arch: machine(header.u16(18)?),
            loader: loader(file, &header)?,
        })
    }

    /// The C library, by its loader's name: `glibc` or `musl`.
    pub(super) fn libc(&self) -> Option<&'static str> {
        let name = self.loader.as_ref()?.file_name()?.to_str()?;
        match name {
            _ if name.starts_with("ld-musl-") => Some("musl"),
            // ld-linux-x86-64.so.2, ld-linux-aarch64.so.1; ld64.so.1 and ld.so.1 on POWER and s390.
            _ if name.starts_with("ld-linux")
                || name.starts_with("ld64.so")
                || name == "ld.so.1" =>
            {
                Some("glibc")
            }
            _ => None,
        }
    }
}

fn loader(file: &mut (impl Read + Seek), header: &Fields<'_>) -> io::Result<Option<PathBuf>> {
    let (table, width, count) = if header.is_64_bit {
        (header.u64(32)?, header.u16(54)?, header.u16(56)?)
    } else {
        (u64::from(header.u32(28)?), header.u16(42)?, header.u16(44)?)
    };
    for index in 0..count.min(MOST_HEADERS) {
        let place = table.checked_add(u64::from(index) * u64::from(width));
        file.seek(SeekFrom::Start(
            place.ok_or_else(|| invalid("no such place"))?,
        ))?;
        let mut bytes = [0; 56];
        let length = fill(file, &mut bytes)?;
        let segment = Fields {
            bytes: &bytes[..length],
            ..*header
        };
        if segment.u32(0)? == PT_INTERP {
            return text(file, &segment).map(Some);
        }
    }
    Ok(None)
}

/// The path in the segment that a program header describes.
fn text(file: &mut (impl Read + Seek), segment: &Fields<'_>) -> io::Result<PathBuf> {
    let (offset, size) = if segment.is_64_bit {
        (segment.u64(8)?, segment.u64(32)?)
    } else {
        (u64::from(segment.u32(4)?), u64::from(segment.u32(16)?))
    };
    if size > LONGEST_PATH {
        return Err(invalid("the loader's path is too long"));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut path = Vec::new();
    file.take(size).read_to_end(&mut path)?;
    let end = path
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(path.len());
    path.truncate(end);
    String::from_utf8(path)
        .map(PathBuf::from)
        .map_err(|_not_text| invalid("the loader's path is no text"))
}

/// Bytes, and how numbers are written in them.
struct Fields<'a> {
    bytes: &'a [u8],
    is_64_bit: bool,
    is_little: bool,
}

impl<'a> Fields<'a> {
    /// Looks at a file's first bytes; `None` when it is no ELF file.
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let [0x7f, b'E', b'L', b'F', class @ (1 | 2), order @ (1 | 2), ..] = bytes else {
            return None;
        };
        Some(Self {
            bytes,
            is_64_bit: *class == 2,
            is_little: *order == 1,
        })
    }

    fn array<const N: usize>(&self, at: usize) -> io::Result<[u8; N]> {
        let mut array = [0; N];
        let bytes = self.bytes.get(at..at + N);
        array.copy_from_slice(bytes.ok_or_else(|| invalid("the ELF header is cut off"))?);
        if !self.is_little {
            array.reverse();
        }
        Ok(array)
    }

    fn u16(&self, at: usize) -> io::Result<u16> {
        self.array(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> io::Result<u32> {
        self.array(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> io::Result<u64> {
        self.array(at).map(u64::from_le_bytes)
    }
}

/// The names of `e_machine` numbers (System V ABI, chapter 4).
fn machine(number: u16) -> String {
    let name = match number {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        _ => return format!("machine {number}"),
    };
    name.to_owned()
}

/// Reads as much as there is.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// The smallest 64-bit program that names a loader.
    pub(in super::super) fn program(machine: u16, loader: &str) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::from(!loader.is_empty()).to_le_bytes());
        bytes[64..68].copy_from_slice(&PT_INTERP.to_le_bytes());
        bytes[72..80].copy_from_slice(&120_u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&(loader.len() as u64 + 1).to_le_bytes());
        bytes.extend_from_slice(loader.as_bytes());
        bytes.push(0);
        bytes
    }

    fn needs(bytes: Vec<u8>) -> io::Result<Needs> {
        Needs::read(&mut Cursor::new(bytes))
    }

    #[test]
    fn a_program_names_its_loader_and_so_its_library() {
        let musl = needs(program(62, "/lib/ld-musl-x86_64.so.1")).unwrap();
        assert_eq!(musl.libc(), Some("musl"));
        assert_eq!(musl.arch, "x86_64");
        let glibc = needs(program(183, "/lib/ld-linux-aarch64.so.1")).unwrap();
        assert_eq!(
            (glibc.libc(), glibc.arch.as_str()),
            (Some("glibc"), "aarch64")
        );
        assert_eq!(needs(program(62, "")).unwrap().loader, None);
    }

    #[test]
    fn big_endian_and_32_bit_programs_are_read_too() {
        let mut bytes = vec![0; 52 + 32];
        bytes[..6].copy_from_slice(b"\x7fELF\x01\x02");
        bytes[18..20].copy_from_slice(&20_u16.to_be_bytes());
        bytes[28..32].copy_from_slice(&52_u32.to_be_bytes());
        bytes[42..44].copy_from_slice(&32_u16.to_be_bytes());
        bytes[44..46].copy_from_slice(&1_u16.to_be_bytes());
        bytes[52..56].copy_from_slice(&PT_INTERP.to_be_bytes());
        bytes[56..60].copy_from_slice(&84_u32.to_be_bytes());
        bytes[68..72].copy_from_slice(&13_u32.to_be_bytes());
        bytes.extend_from_slice(b"/lib/ld.so.1\0");
        let needs = needs(bytes).unwrap();
        assert_eq!(
            (needs.arch.as_str(), needs.libc()),
            ("powerpc", Some("glibc"))
        );
    }

    #[test]
    fn this_very_program_is_for_this_machine() {
        let needs = Needs::of(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(needs.arch, std::env::consts::ARCH);
    }

    #[test]
    fn a_script_is_no_program() {
        assert!(needs(b"#!/bin/sh\n".to_vec()).is_err());
        assert!(needs(Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn damaged_headers_are_errors_or_answers_but_never_panics(
            at in 0_usize..120, byte in any::<u8>(), length in 0_usize..160,
        ) {
            let mut bytes = program(62, "/lib64/ld-linux-x86-64.so.2");
            bytes[at] = byte;
            bytes.truncate(length);
            let _ = needs(bytes);
        }
    }
}
