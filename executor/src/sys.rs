//! The system calls that have no safe wrapper elsewhere. The only `unsafe` of the program.
//!
//! Each function is safe to call as its comment says; raw descriptors and pointers stay inside.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::futex;

/// One instruction of classic BPF, laid out as `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct BpfInstruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// Namespaces for [`unshare`] and [`clone_into`].
pub(crate) mod namespace {
    pub(crate) const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    pub(crate) const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    pub(crate) const UTS: u64 = libc::CLONE_NEWUTS as u64;
    pub(crate) const IPC: u64 = libc::CLONE_NEWIPC as u64;
    pub(crate) const USER: u64 = libc::CLONE_NEWUSER as u64;
    pub(crate) const PID: u64 = libc::CLONE_NEWPID as u64;
    pub(crate) const NET: u64 = libc::CLONE_NEWNET as u64;
    /// No namespace: the kernel's own test that the process has one thread.
    pub(crate) const NONE_IF_SINGLE_THREADED: u64 = libc::CLONE_THREAD as u64;
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Moves the process into new namespaces.
pub(crate) fn unshare(namespaces: u64) -> io::Result<()> {
    // SAFETY: none of the flags that this crate passes changes who owns memory or descriptors.
    check(unsafe { libc::unshare(namespaces as libc::c_int) }.into()).map(drop)
}

/// Forks the process into new namespaces: a pidfd of the child, or `None` in the child.
///
/// The caller has one thread (the child would own locks of threads that it does not have).
pub(crate) fn clone_into(namespaces: u64) -> io::Result<Option<OwnedFd>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no new stack this is fork(2): the child continues here on its
    // own copy of the memory. `args` and `pidfd` live across the call.
    let mut made =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) });
    if made
        .as_ref()
        .is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS))
    {
        // The filter of a container cannot look into the arguments of clone3, so it denies that there is one. The pidfd goes
        // where clone puts the child's id otherwise.
        let flags = namespaces | (libc::CLONE_PIDFD | libc::SIGCHLD) as u64;
        // SAFETY: as above; a null stack means a copy of ours, and both machines take these three arguments first.
        made = check(unsafe {
            libc::syscall(
                libc::SYS_clone,
                flags,
                ptr::null_mut::<u8>(),
                &raw mut pidfd,
                ptr::null_mut::<u8>(),
                ptr::null_mut::<u8>(),
            )
        });
    }
    let pid = made?;
    if pid == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Memory for the stack of a child that shares ours, with a guard page below it.
#[derive(Debug)]
pub(crate) struct Stack {
    base: *mut libc::c_void,
}

impl Stack {
    const GUARD: usize = 64 * 1024;
    const SIZE: usize = 1024 * 1024;

    pub(crate) fn new() -> io::Result<Stack> {
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
            libc::mmap(
                ptr::null_mut(),
                Stack::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { base };
        // SAFETY: the range is the lower end of the mapping just made.
        check(unsafe { libc::mprotect(base, Stack::GUARD, libc::PROT_NONE) }.into())?;
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no child runs on it: spawn_into waits for its exec or end.
        unsafe { libc::munmap(self.base, Stack::SIZE) };
    }
}

/// Runs `body` in a child in new namespaces and returns a pidfd once the child has executed a program or
/// ended. The child shares our memory meanwhile (as with vfork), so its cost does not grow with our size;
/// it has descriptors, a directory, signal actions and credentials of its own. What `body` returns is its exit code.
///
/// The caller has one thread. What `body` leaves in memory stays there.
pub(crate) fn spawn_into(
    namespaces: u64,
    stack: &mut Stack,
    body: &mut dyn FnMut() -> i32,
) -> io::Result<OwnedFd> {
    extern "C" fn start(body: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the pointer passed to clone below, to a reference that lives until the child has gone.
        let body = unsafe { &mut *body.cast::<&mut dyn FnMut() -> i32>() };
        body()
    }
    let mut body = body;
    let mut pidfd: RawFd = -1;
    let flags =
        namespaces as libc::c_int | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: CLONE_VFORK suspends the only thread of this process until the child is off our memory, so
    // nothing is touched from two sides. The child has a stack of its own, of which no other child is left,
    // and does not return from `start`. `body` and `pidfd` live across the call.
    let pid = check(
        unsafe {
            libc::clone(
                start,
                stack.base.byte_add(Stack::SIZE),
                flags,
                (&raw mut body).cast(),
                &raw mut pidfd,
            )
        }
        .into(),
    )?;
    debug_assert!(pid > 0);
    // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// A child that shares our memory and has stopped on its way, with a `T` of its own. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Paused<T> {
    child: Option<OwnedFd>,
    turns: Box<Turns<T>>,
    _stack: Stack,
}

/// How the two sides take turns: never do both of them use the memory.
#[derive(Debug)]
struct Turns<T> {
    /// Whose turn it is. The kernel itself writes 0 when the child is off our memory.
    turn: AtomicU32,
    /// What the child does before the pause: `&mut dyn FnMut() -> T`.
    first: *mut libc::c_void,
    /// And after it: `&mut dyn FnMut(T) -> i32`.
    rest: AtomicPtr<libc::c_void>,
    made: PhantomData<T>,
}

const CHILD: u32 = 1;
const PARENT: u32 = 2;

impl<T> Turns<T> {
    /// Waits as long as it is the turn of `whose`.
    fn wait_for(&self, whose: u32) {
        while self.turn.load(Ordering::SeqCst) == whose {
            // Interrupted or too late: looked at again.
            let _ = futex::wait(&self.turn, futex::Flags::empty(), whose, None);
        }
    }

    /// Gives the turn from one to the other; not if the child has gone.
    fn give(&self, from: u32, to: u32) -> bool {
        let order = Ordering::SeqCst;
        let given = self.turn.compare_exchange(from, to, order, order).is_ok();
        // Nobody to wake is as good.
        let _ = futex::wake(&self.turn, futex::Flags::empty(), 1);
        given
    }
}

/// Starts a child in new namespaces that runs `first` on our memory, as that of [`spawn_into`], and waits until it has done so. The
/// caller has one thread; while the child pauses, it uses nothing of the memory.
pub(crate) fn begin_into<T>(namespaces: u64, first: &mut dyn FnMut() -> T) -> io::Result<Paused<T>> {
    extern "C" fn start<T>(turns: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the pointer passed to clone below, to what Paused keeps until this child has gone.
        let turns = unsafe { &*turns.cast::<Turns<T>>() };
        // SAFETY: begin_into waits for the end of this call, and what the pointer leads to lives there.
        let made = unsafe { (*turns.first.cast::<&mut dyn FnMut() -> T>())() };
        turns.give(CHILD, PARENT);
        turns.wait_for(PARENT);
        // SAFETY: resume has stored the pointer, and waits until this child is off our memory.
        let rest = unsafe {
            &mut *turns
                .rest
                .load(Ordering::SeqCst)
                .cast::<&mut dyn FnMut(T) -> i32>()
        };
        rest(made)
    }
    let stack = Stack::new()?;
    let mut first = first;
    let turns = Box::new(Turns {
        turn: AtomicU32::new(CHILD),
        first: (&raw mut first).cast(),
        rest: AtomicPtr::new(ptr::null_mut()),
        made: PhantomData,
    });
    let mut pidfd: RawFd = -1;
    let flags = namespaces as libc::c_int
        | libc::CLONE_VM
        | libc::CLONE_CHILD_CLEARTID
        | libc::CLONE_PIDFD
        | libc::SIGCHLD;
    // SAFETY: the child has a stack of its own and does not return from `start`. It and the only thread of this process
    // take turns: this one waits here, in `resume` and in `drop` as long as it is the child's, and the child waits in `start`
    // otherwise. What it uses lives that long: `turns` and the stack in Paused, `first` in this call, `rest` in `resume`.
    let pid = check(
        unsafe {
            libc::clone(
                start::<T>,
                stack.base.byte_add(Stack::SIZE),
                flags,
                ptr::from_ref::<Turns<T>>(&turns).cast_mut().cast(),
                &raw mut pidfd,
                ptr::null_mut::<libc::c_void>(),
                turns.turn.as_ptr(),
            )
        }
        .into(),
    )?;
    debug_assert!(pid > 0);
    turns.wait_for(CHILD);
    Ok(Paused {
        // SAFETY: the kernel stored a new descriptor there, which nobody else owns.
        child: Some(unsafe { OwnedFd::from_raw_fd(pidfd) }),
        turns,
        _stack: stack,
    })
}

impl<T> Paused<T> {
    /// Lets the child go on with `rest`, until it has executed a program or ended; a pidfd of it. What `rest` returns is its exit
    /// code. `None` if it has ended in the meantime.
    pub(crate) fn resume(mut self, rest: &mut dyn FnMut(T) -> i32) -> Option<OwnedFd> {
        let mut rest = rest;
        self.turns.rest.store((&raw mut rest).cast(), Ordering::SeqCst);
        if !self.turns.give(PARENT, CHILD) {
            return None;
        }
        self.turns.wait_for(CHILD);
        self.child.take()
    }
}

impl<T> Drop for Paused<T> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // If it has ended by itself, there is nothing to kill.
            let _ = pidfd_send_signal(&child, Signal::KILL);
            self.turns.wait_for(PARENT);
            let child = WaitId::PidFd(child.as_fd());
            let _ = rustix::io::retry_on_intr(|| waitid(child.clone(), WaitIdOptions::EXITED));
        }
    }
}

/// Ends this process at once, without running anything that its parent registered.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always allowed; it does not return.
    unsafe { libc::_exit(code) }
}

/// Executes `path`; returns only the error.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer, and the strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Makes `fd` the process's standard descriptor `target` (0, 1 or 2), open across exec.
pub(crate) fn replace_standard(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    debug_assert!((0..=2).contains(&target));
    // SAFETY: 0, 1 and 2 are owned by nobody in Rust; replacing what they refer to is what they are for.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into())?;
    if fd.as_raw_fd() == target {
        // SAFETY: as above; dup2 onto itself leaves close-on-exec set.
        check(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }.into())?;
    }
    Ok(())
}

/// Marks every descriptor from 3 on to be closed by exec.
pub(crate) fn close_on_exec_from_3() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: nothing is closed here; the flag only matters at exec.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Closes every descriptor from 3 on but those of `keep`. Only for a fresh child that will not use any other.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<libc::c_uint> = keep.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    keep.sort_unstable();
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(0);
        }
        // SAFETY: the child shares no descriptor table and never touches the owners of these
        // descriptors again: they stay on a stack that is not returned to.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
    };
    let mut first = 3;
    for kept in keep {
        close(first, kept.saturating_sub(1))?;
        first = first.max(kept + 1);
    }
    close(first, libc::c_uint::MAX)?;
    Ok(())
}

/// Attributes for [`mount_setattr`].
pub(crate) mod attr {
    pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
}

/// Sets attributes on the mount behind `mount`, and on those below it when `recursive`.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    // SAFETY: all-zero is a valid mount_attr.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = set;
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attributes` lives across the call and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Installs a system call filter on this process for good.
pub(crate) fn install_filter(program: &[BpfInstruction], flags: u32) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: BpfInstruction has the layout of sock_filter; the kernel copies `len` of them and checks the program.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    })
    .map(drop)
}

/// Gives the process an empty session keyring of its own.
pub(crate) fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<u8>()) })
        .map(drop)
}

/// Makes `uname` tell this process and its children the name of the machine's 32-bit predecessor.
pub(crate) fn become_32_bit() -> io::Result<()> {
    const PER_LINUX32: libc::c_ulong = 8;
    // SAFETY: it changes what uname and /proc/cpuinfo tell; no memory is involved.
    check(unsafe { libc::personality(PER_LINUX32) }.into()).map(drop)
}

/// Sets the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())
        .map(drop)
}

/// The signals that ask the builder to stop.
const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Blocks the stop signals for this thread and its future threads, and opens a descriptor to read them.
pub(crate) fn stop_signals() -> io::Result<OwnedFd> {
    signals_as_descriptor(&STOP_SIGNALS)
}

/// Lets signals through again that [`signals_as_descriptor`] has blocked.
pub(crate) fn unblock(signals: &[libc::c_int]) -> io::Result<()> {
    // SAFETY: as in signals_as_descriptor.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()).into()).map(drop)
    }
}

/// Forks the process: the child's number, or `None` in the child. The caller has one thread.
pub(crate) fn fork() -> io::Result<Option<rustix::process::Pid>> {
    // SAFETY: with one thread nobody else holds a lock that the child would miss.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(rustix::process::Pid::from_raw(pid as i32))
}

/// Blocks signals for this thread and its future threads, and opens a descriptor to read them.
pub(crate) fn signals_as_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: an all-zero sigset_t is initialised by sigemptyset before anything reads it, and
    // lives across the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Reads one signal number from a descriptor of [`stop_signals`]; blocks.
pub(crate) fn read_signal(fd: BorrowedFd<'_>) -> io::Result<i32> {
    read_signal_and_origin(fd).map(|(number, _)| number)
}

/// The same, and whether the kernel itself sent it, as for a key of the terminal.
pub(crate) fn read_signal_and_origin(fd: impl AsFd) -> io::Result<(i32, bool)> {
    const SI_KERNEL: i32 = 0x80;
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(&fd, &mut buffer[..]))?;
    if read < 12 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // The first and the third field of signalfd_siginfo, 32 bits each.
    let field = |at: usize| i32::from_ne_bytes([buffer[at], buffer[at + 1], buffer[at + 2], buffer[at + 3]]);
    Ok((field(0), field(8) == SI_KERNEL))
}

/// A write beyond the limit of file sizes fails then, as a write to a full disk does, and ends nobody.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Gives every signal its default action and unblocks all: what a program expects at its start.
pub(crate) fn reset_signals() {
    // The kernel's sigaction, all zero: SIG_DFL, no flags, nothing masked. The C library's call refuses
    // the two signals that it keeps for itself, which may well be inherited as ignored.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_BYTES: usize = 8;
    // SAFETY: SIG_DFL runs no code of ours; DEFAULT is at least as long as the structure on every machine;
    // the set lives across the call. SIGKILL and SIGSTOP answer with an error that is of no interest.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                ptr::null_mut::<u8>(),
                MASK_BYTES,
            );
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// A second descriptor for `fd`, never one of 0, 1, 2.
pub(crate) fn duplicate_above_standard(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)?)
}

/// The process that a pidfd means, by its number in this pid namespace.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<rustix::process::Pid> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|number| rustix::process::Pid::from_raw(number.trim().parse().ok()?))
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Soft and hard limit of this process.
pub(crate) fn limit(resource: u32) -> io::Result<(u64, u64)> {
    limit_of(0, resource)
}

/// Sets a resource limit of this process by its Linux number.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    set_limit_of(0, resource, soft, hard)
}

/// A system call that a process of a step waits in until it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    /// The calling thread, in the pid namespace of the reader.
    pub(crate) thread: i32,
    pub(crate) call: i32,
    pub(crate) arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries it out.
    Continue,
    Value(i64),
    Errno(i32),
}

// Of linux/seccomp.h.
const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
const NOTIF_ID_VALID: u32 = 0x4008_2102;
const NOTIF_ADDFD: u32 = 0x4018_2103;
const NOTIF_SET_FLAGS: u32 = 0x4008_2104;

#[repr(C)]
struct SeccompNotif {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

#[repr(C)]
struct SeccompResponse {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct SeccompAddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

/// Installs a filter that hands calls to whoever reads from the descriptor that is returned.
pub(crate) fn install_notifying_filter(program: &[BpfInstruction]) -> io::Result<OwnedFd> {
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    /// A signal that does not kill leaves a call that is being answered alone (kernel 5.19).
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let install = |flags: libc::c_ulong| {
        // SAFETY: as in install_filter.
        check(unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                flags,
                &raw const filter,
            )
        })
    };
    let fd = match install(NEW_LISTENER | WAIT_KILLABLE_RECV) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => install(NEW_LISTENER),
        result => result,
    }?;
    // SAFETY: the kernel made a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The next call that waits for an answer; blocks. ENOENT when the caller has died meanwhile.
pub(crate) fn receive_notification(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    // SAFETY: all-zero is a valid seccomp_notif, and the kernel asks for it.
    let mut notif: SeccompNotif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a seccomp_notif there, which has this layout.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut notif) }.into())?;
    Ok(Notification {
        id: notif.id,
        thread: notif.pid as i32,
        call: notif.nr,
        arguments: notif.args,
    })
}

/// Answers a call. ENOENT when the caller has died meanwhile.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> io::Result<()> {
    const CONTINUE: u32 = 1;
    let (val, error, flags) = match answer {
        Answer::Continue => (0, 0, CONTINUE),
        Answer::Value(value) => (value, 0, 0),
        Answer::Errno(errno) => (0, -errno, 0),
    };
    let response = SeccompResponse {
        id,
        val,
        error,
        flags,
    };
    // SAFETY: the kernel reads a seccomp_notif_resp, which lives across the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw const response) }.into()).map(drop)
}

/// Answers a call by a descriptor for `file` in the caller.
pub(crate) fn answer_with_file(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    const SEND: u32 = 2;
    let add = |flags: u32| {
        let request = SeccompAddFd {
            id,
            flags,
            srcfd: file.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the kernel reads a seccomp_notif_addfd, which lives across the call.
        check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ADDFD as _, &raw const request) }.into())
    };
    match add(SEND) {
        // Before kernel 5.14 in two steps.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            let number = add(0)?;
            answer(listener, id, Answer::Value(number))
        }
        added => added.map(drop),
    }
}

/// Does the caller still wait? Then its thread number still is its own.
pub(crate) fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads a u64, which lives across the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ID_VALID as _, &raw const id) }.into()).is_ok()
}

/// Asks the kernel to switch between a caller and the reader on one processor (kernel 6.6; without it all works).
pub(crate) fn wake_synchronously(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: no memory is passed; a kernel that does not know the request refuses it.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
}

/// Reads memory of another process; gives how many bytes could be read.
pub(crate) fn read_memory(thread: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = libc::iovec {
        iov_base: ptr::without_provenance_mut(address as usize),
        iov_len: buffer.len(),
    };
    // SAFETY: only `buffer` is written here; the other address belongs to another process and is checked by the kernel.
    check(
        unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) }
            as libc::c_long,
    )
    .map(|n| n as usize)
}

/// Writes memory of another process, all or an error.
pub(crate) fn write_memory(thread: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let remote = libc::iovec {
        iov_base: ptr::without_provenance_mut(address as usize),
        iov_len: bytes.len(),
    };
    // SAFETY: `bytes` is only read; the other address belongs to another process and is checked by the kernel.
    let written =
        check(
            unsafe { libc::process_vm_writev(thread, &raw const local, 1, &raw const remote, 1, 0) }
                as libc::c_long,
        )?;
    if written as usize == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EFAULT))
    }
}

/// The bytes of what the kernel fills for `fstat` and `statx`.
pub(crate) trait KernelStruct: Copy {}
impl KernelStruct for rustix::fs::Stat {}
impl KernelStruct for rustix::fs::Statx {}

/// `value` as the kernel lays it out.
pub(crate) fn bytes_of<T: KernelStruct>(value: &T) -> Vec<u8> {
    let mut bytes = vec![0u8; size_of::<T>()];
    // SAFETY: both are valid for that many bytes; the implementors are structures of integers that the kernel has filled.
    unsafe { ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), bytes.as_mut_ptr(), bytes.len()) };
    bytes
}

/// Soft and hard limit of another process.
pub(crate) fn limit_of(thread: i32, resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the structure lives across the call, and no new value is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            thread,
            resource,
            ptr::null::<u8>(),
            &raw mut limit,
        )
    })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Sets a limit of another process.
pub(crate) fn set_limit_of(thread: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure lives across the call, and no old value is asked for.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            thread,
            resource,
            &raw const limit,
            ptr::null_mut::<u8>(),
        )
    })
    .map(drop)
}

/// What a Landlock ruleset handles, laid out as `struct landlock_ruleset_attr`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RulesetAttributes {
    pub(crate) files: u64,
    pub(crate) network: u64,
    pub(crate) scoped: u64,
}

/// The version of Landlock that the kernel has.
pub(crate) fn landlock_version() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: no attributes are passed, as this flag wants it.
    let version = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::null::<RulesetAttributes>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    })?;
    Ok(u32::try_from(version).unwrap_or(0))
}

/// A ruleset that allows nothing of what it handles. Members that are zero are cut off, so that older kernels know the size.
pub(crate) fn landlock_ruleset(attributes: &RulesetAttributes) -> io::Result<OwnedFd> {
    let size: usize = if attributes.scoped != 0 { 24 } else { 8 };
    // SAFETY: the structure lives across the call and is at least `size` bytes long.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            ptr::from_ref(attributes),
            size,
            0u32,
        )
    })?;
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows `access` to all that lies below `directory`.
pub(crate) fn landlock_allow_beneath(
    ruleset: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    access: u64,
) -> io::Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        parent: RawFd,
    }
    const LANDLOCK_RULE_PATH_BENEATH: u32 = 1;
    let rule = PathBeneath {
        access,
        parent: directory.as_raw_fd(),
    };
    // SAFETY: the rule has the layout of landlock_path_beneath_attr and lives across the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            LANDLOCK_RULE_PATH_BENEATH,
            &raw const rule,
            0u32,
        )
    })
    .map(drop)
}

/// Puts this process and its future descendants under `ruleset` for good.
pub(crate) fn landlock_restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) }).map(drop)
}

/// SIGKILL for every process that this one may signal, except itself and pid 1. Only for a process that Landlock
/// lets signal nobody but its descendants.
pub(crate) fn kill_all_in_reach() {
    // SAFETY: no memory is passed. That nobody is left to signal is as good.
    unsafe { libc::kill(-1, libc::SIGKILL) };
}
