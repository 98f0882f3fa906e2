//! Makes system calls by the processor's own instruction.
//!
//! The preload library answers libc's functions in the program's place, including `syscall(2)`: its
//! own calls to the kernel must not come back to it. No errno is touched either, so a call can be
//! made in a copy of another thread (a child that shares or has copied its memory).

/// Make a system call. The error is the kernel's error number.
///
/// # Errors
/// The errors of the call.
///
/// # Safety
/// The same requirements as for the call.
#[cfg(target_arch = "x86_64")]
pub unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, i32> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the x86-64 convention for system calls: rcx and r11 are lost, all else is kept.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    checked(result)
}

/// The same for 64-bit Arm.
///
/// # Errors
/// The errors of the call.
///
/// # Safety
/// The same requirements as for the call.
#[cfg(target_arch = "aarch64")]
pub unsafe fn syscall(number: libc::c_long, arguments: [usize; 6]) -> Result<usize, i32> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the convention for system calls of 64-bit Arm: all registers but x0 are kept.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a as isize => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
            options(nostack)
        );
    }
    checked(result)
}

/// The kernel answers with a negative error number, of which there are 4095 at most.
fn checked(result: isize) -> Result<usize, i32> {
    if (-4095..0).contains(&result) {
        return Err(-result as i32);
    }
    Ok(result as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_with_a_value_or_an_error_number() {
        // SAFETY: neither call touches memory.
        unsafe {
            assert_eq!(syscall(libc::SYS_getpid, [0; 6]), Ok(std::process::id() as usize));
            assert_eq!(syscall(libc::SYS_close, [usize::MAX, 0, 0, 0, 0, 0]), Err(libc::EBADF));
        }
    }
}
