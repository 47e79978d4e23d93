//! Classic BPF, as much of it as a system call filter needs.
//!
//! Conditional jumps reach 255 instructions ahead, unconditional ones any distance: the search
//! tree uses the former (a subtree stays far below that), the way to a block the latter.

use super::document::{Argument, Operator};
use crate::sys::BpfInstruction;

/// What is answered to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Errno(u16),
    /// The kernel's value of any answer.
    Return(u32),
    /// Look further, in the n-th block of this architecture.
    Block(usize),
}

// Opcodes of linux/bpf_common.h: class, size or comparison, operand.
const LOAD_ABS: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data; the low half of an argument comes first (little endian).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;

#[derive(Debug)]
pub(super) struct Assembler {
    code: Vec<BpfInstruction>,
    /// Jumps to blocks that are not placed yet.
    pending: Vec<(usize, usize)>,
    blocks: Vec<usize>,
}

impl Assembler {
    pub(super) fn new() -> Assembler {
        let mut asm = Assembler {
            code: Vec::new(),
            pending: Vec::new(),
            blocks: Vec::new(),
        };
        asm.emit(LOAD_ABS, 0, 0, ARCHITECTURE);
        asm
    }

    /// Calls of `arch` are answered by `decisions` and the blocks that `blocks` adds, in order.
    pub(super) fn architecture(
        &mut self,
        arch: u32,
        decisions: &[(u32, Action)],
        blocks: impl FnOnce(&mut Assembler),
    ) {
        self.emit(JUMP_EQ, 1, 0, arch);
        let skip = self.emit(JUMP, 0, 0, 0);
        self.emit(LOAD_ABS, 0, 0, NUMBER);
        self.search(decisions);
        blocks(self);
        for (at, block) in std::mem::take(&mut self.pending) {
            self.code[at].k = (self.blocks[block] - at - 1) as u32;
        }
        self.blocks.clear();
        self.code[skip].k = (self.code.len() - skip - 1) as u32;
    }

    /// Allowed when no bit of `forbidden` is in the first argument.
    pub(super) fn clone_block(&mut self, forbidden: u32, errno: u16) {
        self.begin_block();
        self.emit(JUMP_SET, 0, 1, forbidden);
        self.emit(RETURN, 0, 0, RET_ERRNO | u32::from(errno));
        self.emit(RETURN, 0, 0, RET_ALLOW);
    }

    /// Allowed when the first argument is one of `values`.
    pub(super) fn values_block(&mut self, values: &[u32], errno: u16) {
        self.begin_block();
        for &value in values {
            self.emit(JUMP_EQ, 0, 1, value);
            self.emit(RETURN, 0, 0, RET_ALLOW);
        }
        self.emit(RETURN, 0, 0, RET_ERRNO | u32::from(errno));
    }

    /// Allowed when the first argument is in one of `ranges` (ascending, inclusive).
    pub(super) fn ranges_block(&mut self, ranges: &[(u32, u32)], errno: u16) {
        self.begin_block();
        let mut decisions = vec![(0, Action::Errno(errno))];
        for &(first, last) in ranges {
            decisions.push((first, Action::Allow));
            decisions.push((last + 1, Action::Errno(errno)));
        }
        self.search(&decisions);
    }

    /// The value of the first of `rules` whose conditions all hold, else `default`.
    pub(super) fn rules_block(&mut self, rules: &[(Vec<Argument>, u32)], default: u32) {
        self.blocks.push(self.code.len());
        for (conditions, value) in rules {
            let mut failing = Vec::new();
            for condition in conditions {
                self.condition(condition, &mut failing);
            }
            self.emit(RETURN, 0, 0, *value);
            let next = self.code.len();
            for (at, if_true) in failing {
                // Six conditions of six instructions at most: never far.
                let distance = u8::try_from(next - at - 1).unwrap_or(u8::MAX);
                let jump = &mut self.code[at];
                *(if if_true { &mut jump.jt } else { &mut jump.jf }) = distance;
            }
        }
        self.emit(RETURN, 0, 0, default);
    }

    /// Falls through when the condition holds; `failing` gets the jumps (and which of their two ways) for when it does not.
    fn condition(&mut self, argument: &Argument, failing: &mut Vec<(usize, bool)>) {
        let low = FIRST_ARGUMENT + 8 * u32::from(argument.index);
        let high = low + 4;
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let (value_high, value_low) = halves(argument.value);
        self.emit(LOAD_ABS, 0, 0, high);
        match argument.op {
            Operator::Equal => {
                failing.push((self.emit(JUMP_EQ, 0, 0, value_high), false));
                self.emit(LOAD_ABS, 0, 0, low);
                failing.push((self.emit(JUMP_EQ, 0, 0, value_low), false));
            }
            Operator::NotEqual => {
                self.emit(JUMP_EQ, 0, 2, value_high);
                self.emit(LOAD_ABS, 0, 0, low);
                failing.push((self.emit(JUMP_EQ, 0, 0, value_low), true));
            }
            Operator::MaskedEqual => {
                let (wanted_high, wanted_low) = halves(argument.value_two & argument.value);
                self.emit(AND, 0, 0, value_high);
                failing.push((self.emit(JUMP_EQ, 0, 0, wanted_high), false));
                self.emit(LOAD_ABS, 0, 0, low);
                self.emit(AND, 0, 0, value_low);
                failing.push((self.emit(JUMP_EQ, 0, 0, wanted_low), false));
            }
            Operator::Greater | Operator::GreaterOrEqual => {
                self.emit(JUMP_GT, 3, 0, value_high);
                failing.push((self.emit(JUMP_EQ, 0, 0, value_high), false));
                self.emit(LOAD_ABS, 0, 0, low);
                let compare = if argument.op == Operator::Greater {
                    JUMP_GT
                } else {
                    JUMP_GE
                };
                failing.push((self.emit(compare, 0, 0, value_low), false));
            }
            Operator::Less | Operator::LessOrEqual => {
                failing.push((self.emit(JUMP_GT, 0, 0, value_high), true));
                self.emit(JUMP_EQ, 0, 2, value_high);
                self.emit(LOAD_ABS, 0, 0, low);
                let compare = if argument.op == Operator::Less {
                    JUMP_GE
                } else {
                    JUMP_GT
                };
                failing.push((self.emit(compare, 0, 0, value_low), true));
            }
        }
    }

    /// Any other architecture is left alone.
    pub(super) fn finish_allowing(mut self) -> Vec<BpfInstruction> {
        self.emit(RETURN, 0, 0, RET_ALLOW);
        self.code
    }

    /// Any other architecture is killed.
    pub(super) fn finish(mut self) -> Vec<BpfInstruction> {
        self.emit(RETURN, 0, 0, RET_KILL_PROCESS);
        self.code
    }

    fn begin_block(&mut self) {
        self.blocks.push(self.code.len());
        self.emit(LOAD_ABS, 0, 0, FIRST_ARGUMENT);
    }

    fn search(&mut self, decisions: &[(u32, Action)]) {
        if let [(_, action)] = decisions {
            match *action {
                Action::Allow => self.emit(RETURN, 0, 0, RET_ALLOW),
                Action::Return(value) => self.emit(RETURN, 0, 0, value),
                Action::Errno(errno) => self.emit(RETURN, 0, 0, RET_ERRNO | u32::from(errno)),
                Action::Block(block) => {
                    let at = self.emit(JUMP, 0, 0, 0);
                    self.pending.push((at, block));
                    at
                }
            };
            return;
        }
        let (low, high) = decisions.split_at(decisions.len() / 2);
        let Some(&(pivot, _)) = high.first() else { return };
        let branch = self.emit(JUMP_GE, 0, 0, pivot);
        self.search(low);
        let distance = self.code.len() - branch - 1;
        match u8::try_from(distance) {
            Ok(distance) => self.code[branch].jt = distance,
            Err(_) => {
                // Too far for a conditional jump: hop over an unconditional one.
                self.code[branch].jf = 1;
                self.code.insert(
                    branch + 1,
                    BpfInstruction {
                        code: JUMP,
                        jt: 0,
                        jf: 0,
                        k: distance as u32,
                    },
                );
                for (at, _) in &mut self.pending {
                    if *at > branch {
                        *at += 1;
                    }
                }
            }
        }
        self.search(high);
    }

    fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.code.push(BpfInstruction { code, jt, jf, k });
        self.code.len() - 1
    }
}

/// What the kernel would answer, for tests.
#[cfg(test)]
pub(super) fn simulate(program: &[BpfInstruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let load = |offset: u32| match offset {
        NUMBER => number,
        ARCHITECTURE => arch,
        _ => (args[(offset as usize - 16) / 8] >> (8 * ((offset - 16) % 8))) as u32,
    };
    let (mut pc, mut a) = (0, 0);
    loop {
        let i = program[pc];
        pc += 1;
        let taken = match i.code {
            LOAD_ABS => {
                a = load(i.k);
                continue;
            }
            RETURN => return i.k,
            JUMP => {
                pc += i.k as usize;
                continue;
            }
            AND => {
                a &= i.k;
                continue;
            }
            JUMP_EQ => a == i.k,
            JUMP_GT => a > i.k,
            JUMP_GE => a >= i.k,
            JUMP_SET => a & i.k != 0,
            other => panic!("opcode {other:#x}"),
        };
        pc += usize::from(if taken { i.jt } else { i.jf });
    }
}
