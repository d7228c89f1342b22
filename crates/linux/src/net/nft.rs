//! nftables as data: what a table of family `ip` is made of, and the changes to it.
//!
//! A rule is a list of the kernel's own expressions over 16 registers of 32 bits ([`word`]); the functions here are the few
//! that the pod network and the service proxy need, each named for what `nft` would print.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use nlink::netlink::nftables::{
    CmpOp, CtKey, DynsetExpr, DynsetOp, Expr, FibFlags, FibResult, LookupExpr, MetaKey, NumgenKind, PayloadBase,
    RawExpr, Register, Verdict,
};

/// One expression of a rule.
pub type Expression = Expr;
/// The expressions of a rule, in order. A comparison that fails ends the rule.
pub type Rule = Vec<Expression>;

/// A field of a key or of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// An IPv4 address: 4 bytes.
    Address,
    /// An IP protocol number: 1 byte, padded to 4.
    Protocol,
    /// A port: 2 bytes in network order, padded to 4.
    Port,
    /// A number in the machine's own byte order: 4 bytes.
    Number,
}

/// What the elements of a set map to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing: a plain set.
    Nothing,
    /// A chain to go on with.
    Verdict,
    /// Fields.
    Fields(Cow<'static, [Field]>),
}

/// A named set or map. Every field of a key and of a value takes 4 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Cow<'static, str>,
    /// The fields of its keys.
    pub key: Cow<'static, [Field]>,
    /// What its elements map to.
    pub data: Data,
    /// Where rules themselves add elements: how many at most, and how long one lives unless its rule says otherwise.
    pub dynamic: Option<(u32, Duration)>,
}

/// What a key maps to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing: an element of a plain set.
    Nothing,
    /// The chain to go on with.
    Goto(String),
    /// The bytes of the fields.
    Bytes(Vec<u8>),
}

/// Elements by key.
pub type Elements = BTreeMap<Vec<u8>, Value>;

/// Where a base chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Filter, before routing, before connection tracking (priority -300).
    RawPrerouting,
    /// Filter, of what arrives, right before its destination is translated (priority -110).
    FilterBeforeNatPrerouting,
    /// Filter, of what this host sends, right before its destination is translated (priority -110).
    FilterBeforeNatOutput,
    /// Filter, to this host.
    FilterInput,
    /// Filter, through this host.
    FilterForward,
    /// Filter, from this host.
    FilterOutput,
    /// Destination translation of what arrives.
    NatPrerouting,
    /// Destination translation of what this host sends.
    NatOutput,
    /// Source translation of what leaves.
    NatPostrouting,
}

/// A change of one table. A list of them is applied as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes the table, unless it exists.
    AddTable,
    /// Removes the table and all in it. Fails where there is none.
    RemoveTable,
    /// Makes a chain, unless it exists.
    AddChain {
        /// Its name.
        name: String,
        /// Its hook, if it is a base chain.
        hook: Option<Hook>,
    },
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Removes a chain, which nothing may refer to any more.
    RemoveChain(String),
    /// Appends a rule to a chain.
    AddRule {
        /// The chain.
        chain: String,
        /// The rule.
        rule: Rule,
    },
    /// Makes a set. Fails where its name is taken.
    AddSet(Set),
    /// Removes a set with its elements.
    RemoveSet(String),
    /// Adds elements. Fails where a key is there with another value.
    AddElements {
        /// The set.
        set: Set,
        /// The elements.
        elements: Elements,
    },
    /// Removes elements. Fails where one is not there.
    RemoveElements {
        /// The set.
        set: Set,
        /// Their keys.
        keys: BTreeSet<Vec<u8>>,
    },
}

/// What a table holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The names of its chains.
    pub chains: BTreeSet<String>,
    /// Its sets with their elements. Those that rules put there are left out.
    pub sets: BTreeMap<String, Elements>,
}

/// Register number `number`, from 0 to 15: 4 bytes. A key of several fields lies in registers side by side.
pub fn word(number: usize) -> Register {
    Register::word(number).expect("rules name registers 0 to 15")
}

/// The bytes of a key or value.
#[derive(Debug, Default, Clone)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// No field yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an address.
    pub fn address(mut self, address: Ipv4Addr) -> Self {
        self.0.extend(address.octets());
        self
    }

    /// Appends a protocol number.
    pub fn protocol(mut self, protocol: u8) -> Self {
        self.0.extend([protocol, 0, 0, 0]);
        self
    }

    /// Appends a protocol number with bits flipped in its word: no packet's own has them.
    pub fn flipped(mut self, protocol: u8, bits: [u8; 4]) -> Self {
        let word = [protocol, 0, 0, 0];
        self.0.extend(std::array::from_fn::<u8, 4, _>(|at| word[at] ^ bits[at]));
        self
    }

    /// Appends a port.
    pub fn port(mut self, port: u16) -> Self {
        self.0.extend(port.to_be_bytes());
        self.0.extend([0, 0]);
        self
    }

    /// Appends a number.
    pub fn number(mut self, number: u32) -> Self {
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

/// `ip saddr`, into a register.
pub fn source_address(register: usize) -> Expression {
    Expr::Payload { dreg: word(register), base: PayloadBase::Network, offset: 12, len: 4 }
}

/// `ip daddr`, into a register.
pub fn destination_address(register: usize) -> Expression {
    Expr::Payload { dreg: word(register), base: PayloadBase::Network, offset: 16, len: 4 }
}

/// `meta l4proto`, into a register.
pub fn protocol(register: usize) -> Expression {
    Expr::Meta { dreg: word(register), key: MetaKey::L4Proto }
}

/// `th dport`, into a register.
pub fn destination_port(register: usize) -> Expression {
    Expr::Payload { dreg: word(register), base: PayloadBase::Transport, offset: 2, len: 2 }
}

/// `icmp type`, into a register.
pub fn icmp_type(register: usize) -> Expression {
    Expr::Payload { dreg: word(register), base: PayloadBase::Transport, offset: 0, len: 1 }
}

/// `numgen random mod modulus`, into a register.
pub fn random(register: usize, modulus: u32) -> Expression {
    Expr::Numgen { dreg: word(register), kind: NumgenKind::Random, modulus, offset: 0 }
}

/// Zero bytes, into a register and those behind it.
pub fn zeroes(register: usize, bytes: usize) -> Expression {
    Expr::Immediate { dreg: word(register), data: vec![0; bytes] }
}

/// Loads these bytes into the registers from `register`.
pub fn load(register: usize, data: impl Into<Vec<u8>>) -> Expression {
    Expr::Immediate { dreg: word(register), data: data.into() }
}

/// Flips bits of a register of 4 bytes.
pub fn flip(register: usize, bits: [u8; 4]) -> Expression {
    Expr::Bitwise { sreg: word(register), dreg: word(register), len: 4, mask: vec![0xff; 4], xor: bits.to_vec() }
}

/// Goes on where a register, read as a number in network order, is at least this one.
pub fn at_least(register: usize, data: impl Into<Vec<u8>>) -> Expression {
    Expr::Cmp { sreg: word(register), op: CmpOp::Gte, data: data.into() }
}

/// Goes on where a register, read as a number in network order, is at most this one.
pub fn at_most(register: usize, data: impl Into<Vec<u8>>) -> Expression {
    Expr::Cmp { sreg: word(register), op: CmpOp::Lte, data: data.into() }
}

/// Goes on where a register equals these bytes.
pub fn equals(register: usize, data: impl Into<Vec<u8>>) -> Expression {
    Expr::Cmp { sreg: word(register), op: CmpOp::Eq, data: data.into() }
}

/// Goes on where a register differs from these bytes.
pub fn differs(register: usize, data: impl Into<Vec<u8>>) -> Expression {
    Expr::Cmp { sreg: word(register), op: CmpOp::Neq, data: data.into() }
}

/// Goes on where the address in a register lies in `net` (or, with `inside` false, where it does not).
pub fn in_net(register: usize, net: Ipv4Net, inside: bool) -> [Expression; 2] {
    let (mask, network) = (net.netmask().octets().to_vec(), net.network().octets());
    let masked = Expr::Bitwise { sreg: word(register), dreg: word(register), len: 4, mask, xor: vec![0; 4] };
    [masked, if inside { equals(register, network) } else { differs(register, network) }]
}

/// `meta l4proto N`.
pub fn is_protocol(number: u8) -> [Expression; 2] {
    [protocol(0), equals(0, [number])]
}

/// `iifname NAME` or `oifname NAME`; with `same` false, any other.
pub fn interface(incoming: bool, name: &str, same: bool) -> [Expression; 2] {
    // The kernel compares the whole name field, its terminator and padding with it.
    let mut field = name.as_bytes().to_vec();
    field.resize(16, 0);
    let key = if incoming { MetaKey::IifName } else { MetaKey::OifName };
    [Expr::Meta { dreg: word(0), key }, if same { equals(0, field) } else { differs(0, field) }]
}

/// `fib daddr type local`: the destination is an address of this host.
pub fn to_this_host() -> [Expression; 2] {
    of_this_host(FibFlags::DADDR)
}

/// `fib saddr type local`: the source is an address of this host.
pub fn from_this_host() -> [Expression; 2] {
    of_this_host(FibFlags::SADDR)
}

fn of_this_host(flags: FibFlags) -> [Expression; 2] {
    const RTN_LOCAL: u32 = 2;
    [Expr::Fib { dreg: word(0), result: FibResult::AddrType, flags }, equals(0, RTN_LOCAL.to_ne_bytes())]
}

/// `ct state new`.
pub fn new_connection() -> [Expression; 3] {
    const NEW: u32 = 8;
    connection_state(NEW)
}

/// `ct state established,related`.
pub fn known_connection() -> [Expression; 3] {
    const ESTABLISHED: u32 = 2;
    const RELATED: u32 = 4;
    connection_state(ESTABLISHED | RELATED)
}

fn connection_state(any_of: u32) -> [Expression; 3] {
    [
        Expr::Ct { dreg: word(0), key: CtKey::State },
        Expr::Bitwise { sreg: word(0), dreg: word(0), len: 4, mask: any_of.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        differs(0, [0; 4]),
    ]
}

/// Sets bits of the packet's mark.
pub fn set_mark(bits: u32) -> [Expression; 3] {
    change_mark(!bits, bits)
}

/// Clears bits of the packet's mark.
pub fn clear_mark(bits: u32) -> [Expression; 3] {
    change_mark(!bits, 0)
}

fn change_mark(mask: u32, xor: u32) -> [Expression; 3] {
    [
        Expr::Meta { dreg: word(0), key: MetaKey::Mark },
        Expr::Bitwise {
            sreg: word(0),
            dreg: word(0),
            len: 4,
            mask: mask.to_ne_bytes().to_vec(),
            xor: xor.to_ne_bytes().to_vec(),
        },
        Expr::MetaSet { key: MetaKey::Mark, sreg: word(0) },
    ]
}

/// Goes on where all `bits` of the packet's mark are set.
pub fn has_mark(bits: u32) -> [Expression; 3] {
    [
        Expr::Meta { dreg: word(0), key: MetaKey::Mark },
        Expr::Bitwise { sreg: word(0), dreg: word(0), len: 4, mask: bits.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        equals(0, bits.to_ne_bytes()),
    ]
}

/// Goes on where the key in the registers from `key` is in the set.
pub fn member(set: &Set, key: usize) -> Expression {
    LookupExpr::new(&*set.name, word(key)).into()
}

/// Loads what the map holds for the key into the registers from `value`; ends the rule where it holds nothing.
pub fn lookup(map: &Set, key: usize, value: usize) -> Expression {
    LookupExpr::new(&*map.name, word(key)).dreg(word(value)).into()
}

/// Goes on with the chain that the verdict map holds for the key, if any.
pub fn vmap(map: &Set, key: usize) -> Expression {
    LookupExpr::new(&*map.name, word(key)).dreg(Register::Verdict).into()
}

/// Puts key and value into a dynamic map, or starts the timeout of the key's element again (its value stays).
pub fn remember(map: &Set, key: usize, value: usize, timeout: Duration) -> Expression {
    DynsetExpr::new(DynsetOp::Update, &*map.name, word(key)).sreg_data(word(value)).timeout(timeout).into()
}

/// Removes a key from a dynamic map. `value` names registers that hold anything: the kernel wants them for every map.
pub fn forget(map: &Set, key: usize, value: usize) -> Expression {
    DynsetExpr::new(DynsetOp::Delete, &*map.name, word(key)).sreg_data(word(value)).into()
}

/// `dnat to` the address and port in two registers.
pub fn dnat(address: usize, port: usize) -> Expression {
    // NFTA_NAT_TYPE: dnat; NFTA_NAT_FAMILY: IPv4; NFTA_NAT_REG_ADDR_MIN; NFTA_NAT_REG_PROTO_MIN.
    let attributes = [(1, 1), (2, 2), (3, word(address).wire()), (5, word(port).wire())];
    RawExpr::new("nat", attributes_u32(&attributes)).into()
}

/// `masquerade fully-random`: two pods that send from one port to one place must not both keep it.
pub fn masquerade() -> Expression {
    const FLAGS: u16 = 1;
    const FULLY_RANDOM: u32 = 1 << 4;
    RawExpr::new("masq", attributes_u32(&[(FLAGS, FULLY_RANDOM)])).into()
}

/// `reject with tcp reset`.
pub fn reject_tcp() -> Expression {
    Expr::Reject { reject_type: 1, icmp_code: 0 }
}

/// `reject with icmp port-unreachable`.
pub fn reject_port() -> Expression {
    Expr::Reject { reject_type: 0, icmp_code: 3 }
}

/// `drop`.
pub fn drop() -> Expression {
    Expr::Verdict(Verdict::Drop)
}

/// `accept`: done, as far as this base chain is concerned.
pub fn accept() -> Expression {
    Expr::Verdict(Verdict::Accept)
}

/// `return`.
pub fn back() -> Expression {
    Expr::Verdict(Verdict::Return)
}

/// `jump CHAIN`.
pub fn jump(chain: &str) -> Expression {
    Expr::Verdict(Verdict::JumpTo(chain_name(chain)))
}

/// `goto CHAIN`.
pub fn goto(chain: &str) -> Expression {
    Expr::Verdict(Verdict::GotoTo(chain_name(chain)))
}

pub(super) fn chain_name(name: &str) -> nlink::netlink::nftables::ChainName {
    nlink::netlink::nftables::ChainName::new(name).expect("chain names are short and printable")
}

/// Netlink attributes that hold one big-endian number each.
fn attributes_u32(attributes: &[(u16, u32)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(attributes.len() * 8);
    for (kind, value) in attributes {
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_be_bytes());
    }
    bytes
}
