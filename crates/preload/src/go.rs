//! Finds code that calls the kernel directly: that of Go.
//!
//! Go maps memory through libc where a program uses C (cgo), and gives it back by its own system
//! calls. Merged memory that is given back in this way shows the bytes of its slab, not zeros. So of
//! a program with such code, only what it marks is merged.

use libc::{c_int, c_void, dl_phdr_info, size_t};

/// The name of the notes that Go's linker makes, with its length (ELF, cmd/link/internal/ld/elf.go).
const NAME: &[u8] = b"Go\0\0";

/// Returns whether the program, or a library that it was started with, has such code.
pub fn is_there() -> bool {
    let mut found = false;
    // SAFETY: the function below gets what it expects.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

unsafe extern "C" fn look(about: *mut dl_phdr_info, _: size_t, found: *mut c_void) -> c_int {
    // SAFETY: libc passes a description of a loaded object, whose headers and notes are mapped.
    unsafe {
        let about = &*about;
        if about.dlpi_phdr.is_null() {
            return 0;
        }
        let headers = std::slice::from_raw_parts(about.dlpi_phdr, about.dlpi_phnum.into());
        for it in headers.iter().filter(|it| it.p_type == libc::PT_NOTE) {
            let at = (about.dlpi_addr + it.p_vaddr) as *const u8;
            if has_note(std::slice::from_raw_parts(at, it.p_memsz as usize)) {
                found.cast::<bool>().write(true);
                return 1;
            }
        }
    }
    0
}

/// Returns whether a segment of notes has one of Go. A note is the lengths of its name and of its
/// contents, its type, the name and the contents, both filled up to a multiple of 4 bytes (elf(5)).
fn has_note(mut notes: &[u8]) -> bool {
    let word = |notes: &[u8], at: usize| {
        notes.get(at..at + 4).map(|it| u32::from_ne_bytes([it[0], it[1], it[2], it[3]]) as usize)
    };
    while let (Some(name), Some(contents)) = (word(notes, 0), word(notes, 4)) {
        if name == NAME.len() && notes.get(12..12 + name) == Some(NAME) {
            return true;
        }
        let len = 12 + name.next_multiple_of(4) + contents.next_multiple_of(4);
        let Some(rest) = notes.get(len..) else { break };
        notes = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_go_are_found_among_others() {
        let note = |name: &[u8], contents: &[u8]| {
            let mut made = Vec::new();
            for part in [name.len() as u32, contents.len() as u32, 4] {
                made.extend(part.to_ne_bytes());
            }
            for part in [name, contents] {
                made.extend(part);
                made.resize(made.len().next_multiple_of(4), 0);
            }
            made
        };
        let gnu = note(b"GNU\0", b"a build id");
        let go = note(NAME, b"another");
        assert!(!has_note(&gnu) && !has_note(&[]) && !has_note(&gnu[..20]));
        assert!(has_note(&[gnu, go].concat()));
        assert!(!is_there());
    }
}
