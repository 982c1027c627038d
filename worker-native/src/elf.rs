//! What a file must be before the dynamic loader may see it: `ld.so` trusts
//! what it maps, and a library that is cut short kills the process by SIGBUS.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

const HEADER: usize = 64;
const PROGRAM_HEADER: u16 = 56;
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;

/// The machine that this worker is compiled for, as ELF numbers it.
const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else if cfg!(target_arch = "riscv64") {
    243
} else {
    0
};

/// Whether `file` is a whole shared library for this machine; if not, what is
/// wrong with it, as the end of a sentence that begins with its name.
pub(crate) fn check(file: &File) -> io::Result<Result<(), String>> {
    let len = file.metadata()?.len();
    let mut header = [0; HEADER];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            let mut short = vec![0; usize::try_from(len).unwrap_or(HEADER).min(HEADER)];
            file.read_exact_at(&mut short, 0)?;
            return Ok(Err(foreign(&short)));
        }
        Err(e) => return Err(e),
    }
    if let Err(problem) = check_header(&header) {
        return Ok(Err(problem));
    }
    // The section table is not mapped, but linkers write it last: without it
    // the file is not finished. (A library that has none says so by zeros.)
    let sections = u64::from_le_bytes(at(&header, 40));
    let section_size = u64::from(u16::from_le_bytes(at(&header, 58)));
    let section_count = u64::from(u16::from_le_bytes(at(&header, 60)));
    if sections.checked_add(section_size * section_count).is_none_or(|end| end > len) {
        return Ok(Err(cut_short(len)));
    }
    let offset = u64::from_le_bytes(at(&header, 32));
    let size = u16::from_le_bytes(at(&header, 54));
    let count = u16::from_le_bytes(at(&header, 56));
    if size != PROGRAM_HEADER {
        return Ok(Err(format!("has program headers of {size} bytes instead of {PROGRAM_HEADER}")));
    }
    let mut dynamic = false;
    for index in 0..u64::from(count) {
        let mut entry = [0; PROGRAM_HEADER as usize];
        let start = offset.checked_add(index * u64::from(PROGRAM_HEADER));
        let end = start.and_then(|start| start.checked_add(u64::from(PROGRAM_HEADER)));
        let (Some(start), true) = (start, end.is_some_and(|end| end <= len)) else {
            return Ok(Err(cut_short(len)));
        };
        file.read_exact_at(&mut entry, start)?;
        let kind = u32::from_le_bytes(at(&entry, 0));
        if kind == PT_LOAD || kind == PT_DYNAMIC {
            let segment = u64::from_le_bytes(at(&entry, 8));
            let size = u64::from_le_bytes(at(&entry, 32));
            if segment.checked_add(size).is_none_or(|end| end > len) {
                return Ok(Err(cut_short(len)));
            }
        }
        dynamic |= kind == PT_DYNAMIC;
    }
    if !dynamic {
        return Ok(Err("is no shared library: it has no dynamic section".to_owned()));
    }
    Ok(Ok(()))
}

fn check_header(header: &[u8; HEADER]) -> Result<(), String> {
    if !header.starts_with(b"\x7fELF") {
        return Err(foreign(header));
    }
    if header[4] != 2 {
        return Err("is a 32-bit library, and this worker is a 64-bit program".to_owned());
    }
    if header[5] != 1 {
        return Err("is big-endian, and this machine is little-endian".to_owned());
    }
    let machine = u16::from_le_bytes(at(header, 18));
    if machine != MACHINE {
        let (found, here) = (machine_name(machine), machine_name(MACHINE));
        return Err(format!("is compiled for {found}, and this machine is {here}"));
    }
    match u16::from_le_bytes(at(header, 16)) {
        ET_DYN => Ok(()),
        1 => Err("is an object file; link it with -shared".to_owned()),
        2 => Err("is a program, not a shared library; link it with -shared".to_owned()),
        _ => Err("is an ELF file, but no shared library".to_owned()),
    }
}

/// What a file that is no ELF file is instead, if it is known.
fn foreign(start: &[u8]) -> String {
    let what = if start.is_empty() {
        "is empty"
    } else if start.starts_with(b"\x7fELF") {
        "is an ELF file that ends within its header"
    } else if start.starts_with(b"MZ") {
        "is a library for Windows, not an ELF file"
    } else if start.starts_with(&[0xcf, 0xfa, 0xed, 0xfe])
        || start.starts_with(&[0xca, 0xfe, 0xba, 0xbe])
    {
        "is a library for macOS, not an ELF file"
    } else if start.starts_with(b"!<arch>") {
        "is a static library (an archive), not a shared one; link it with -shared"
    } else if start.starts_with(b"#!") {
        "is a script, not an ELF shared library"
    } else {
        "is not an ELF shared library"
    };
    what.to_owned()
}

fn cut_short(len: u64) -> String {
    format!("is cut short: it ends after {len} bytes, before what its headers announce")
}

fn machine_name(machine: u16) -> String {
    match machine {
        3 => "x86 (32 bits)".to_owned(),
        40 => "ARM (32 bits)".to_owned(),
        62 => "x86-64".to_owned(),
        183 => "AArch64".to_owned(),
        243 => "RISC-V".to_owned(),
        other => format!("machine number {other}"),
    }
}

/// The bytes of a field. Offsets are constants within the arrays.
fn at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn problem(bytes: &[u8]) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file).unwrap().unwrap_err()
    }

    /// This test's own program: position-independent, so of the right kind.
    fn whole() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn elf_takes_whole_files_only() {
        let whole = whole();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&whole).unwrap();
        check(&file).unwrap().unwrap();
        assert!(problem(&whole[..whole.len() / 2]).contains("cut short"));
        assert!(problem(&whole[..70]).contains("cut short"));
        assert!(problem(&whole[..40]).contains("ends within its header"));
    }

    #[test]
    fn elf_names_what_else_a_file_is() {
        assert!(problem(b"").contains("empty"));
        assert!(problem(b"#!/bin/sh\n").contains("script"));
        assert!(problem(b"MZ and more").contains("Windows"));
        assert!(problem(b"!<arch>\n").contains("static library"));
        assert!(problem(&[7; 100]).contains("not an ELF"));
        let change = |offset: usize, value: u8| {
            let mut bytes = whole();
            bytes[offset] = value;
            problem(&bytes)
        };
        assert!(change(4, 1).contains("32-bit"));
        assert!(change(5, 2).contains("big-endian"));
        assert!(change(16, 1).contains("object file"));
        assert!(change(18, 8).contains("machine number 8"));
    }

    #[test]
    fn elf_survives_nonsense_in_its_headers() {
        for offset in 16..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole();
                bytes.truncate(4096);
                bytes[offset] = value;
                assert!(!problem(&bytes).is_empty());
            }
        }
    }
}
