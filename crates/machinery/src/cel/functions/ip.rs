//! Addresses and networks.

use std::net::{IpAddr, Ipv6Addr};

use super::super::cost::Cost;
use super::super::value::{Made, Opaque, Value};
use super::{CIDR, Function, IP, T, fail, global, member, no_overload};

const ADDRESS: T = T::Opaque(IP);
const NETWORK: T = T::Opaque(CIDR);

pub(super) static FUNCTIONS: &[Function] = &[
    Function {
        name: "ip",
        overloads: &[global(&[T::String], ADDRESS), member(&[NETWORK], ADDRESS)],
        cost: Cost::Ip,
        call: |args, _| match args {
            [Value::String(text)] => match parse(text) {
                Ok(ip) => Ok(Value::opaque(Opaque::Ip(ip))),
                Err(why) => fail(why),
            },
            [of] => match network(of) {
                Some((ip, _)) => Ok(Value::opaque(Opaque::Ip(ip))),
                None => no_overload("ip", args),
            },
            _ => no_overload("ip", args),
        },
    },
    Function {
        name: "isIP",
        overloads: &[global(&[T::String], T::Bool)],
        cost: Cost::Parse,
        call: |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(parse(text).is_ok())),
            _ => no_overload("isIP", args),
        },
    },
    Function {
        name: "ip.isCanonical",
        overloads: &[global(&[T::String], T::Bool)],
        cost: Cost::ParseTwice,
        call: |args, _| match args {
            [Value::String(text)] => match parse(text) {
                Ok(ip) => Ok(Value::Bool(ip.to_string() == **text)),
                Err(why) => fail(why),
            },
            _ => no_overload("ip.isCanonical", args),
        },
    },
    Function {
        name: "family",
        overloads: &[member(&[ADDRESS], T::Int)],
        cost: Cost::One,
        call: |args, _| match address(&args[0]) {
            Some(ip) => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
            None => no_overload("family", args),
        },
    },
    Function {
        name: "isUnspecified",
        overloads: &[member(&[ADDRESS], T::Bool)],
        cost: Cost::One,
        call: |args, _| holds("isUnspecified", args, |ip| ip.is_unspecified()),
    },
    Function {
        name: "isLoopback",
        overloads: &[member(&[ADDRESS], T::Bool)],
        cost: Cost::One,
        call: |args, _| holds("isLoopback", args, |ip| ip.is_loopback()),
    },
    Function {
        name: "isLinkLocalMulticast",
        overloads: &[member(&[ADDRESS], T::Bool)],
        cost: Cost::One,
        call: |args, _| holds("isLinkLocalMulticast", args, is_link_local_multicast),
    },
    Function {
        name: "isLinkLocalUnicast",
        overloads: &[member(&[ADDRESS], T::Bool)],
        cost: Cost::One,
        call: |args, _| holds("isLinkLocalUnicast", args, is_link_local_unicast),
    },
    Function {
        name: "isGlobalUnicast",
        overloads: &[member(&[ADDRESS], T::Bool)],
        cost: Cost::One,
        call: |args, _| holds("isGlobalUnicast", args, is_global_unicast),
    },
    Function {
        name: "cidr",
        overloads: &[global(&[T::String], NETWORK)],
        cost: Cost::Parse,
        call: |args, _| match args {
            [Value::String(text)] => match parse_network(text) {
                Ok((ip, bits)) => Ok(Value::opaque(Opaque::Cidr(ip, bits))),
                Err(why) => fail(format!("network address parse error during conversion from string: {why}")),
            },
            _ => no_overload("cidr", args),
        },
    },
    Function {
        name: "isCIDR",
        overloads: &[global(&[T::String], T::Bool)],
        cost: Cost::Parse,
        call: |args, _| match args {
            [Value::String(text)] => Ok(Value::Bool(parse_network(text).is_ok())),
            _ => no_overload("isCIDR", args),
        },
    },
    Function {
        name: "containsIP",
        overloads: &[member(&[NETWORK, T::String], T::Bool), member(&[NETWORK, ADDRESS], T::Bool)],
        cost: Cost::ContainsIp,
        call: |args, _| {
            let other = match &args[1] {
                Value::String(text) => match parse(text) {
                    Ok(ip) => Some(ip),
                    Err(why) => return fail(why),
                },
                other => address(other),
            };
            match (network(&args[0]), other) {
                (Some(of), Some(ip)) => Ok(Value::Bool(covers(of, ip, of.1))),
                _ => no_overload("containsIP", args),
            }
        },
    },
    Function {
        name: "containsCIDR",
        overloads: &[member(&[NETWORK, T::String], T::Bool), member(&[NETWORK, NETWORK], T::Bool)],
        cost: Cost::ContainsCidr,
        call: |args, _| {
            let other = match &args[1] {
                Value::String(text) => match parse_network(text) {
                    Ok(other) => Some(other),
                    Err(why) => {
                        return fail(format!("network address parse error during conversion from string: {why}"));
                    }
                },
                other => network(other),
            };
            match (network(&args[0]), other) {
                (Some(of), Some((ip, bits))) => Ok(Value::Bool(of.1 <= bits && covers(of, ip, of.1))),
                _ => no_overload("containsCIDR", args),
            }
        },
    },
    Function {
        name: "prefixLength",
        overloads: &[member(&[NETWORK], T::Int)],
        cost: Cost::One,
        call: |args, _| match network(&args[0]) {
            Some((_, bits)) => Ok(Value::Int(bits.into())),
            None => no_overload("prefixLength", args),
        },
    },
    Function {
        name: "masked",
        overloads: &[member(&[NETWORK], NETWORK)],
        cost: Cost::One,
        call: |args, _| match network(&args[0]) {
            Some((ip, bits)) => Ok(Value::opaque(Opaque::Cidr(masked(ip, bits), bits))),
            None => no_overload("masked", args),
        },
    },
];

fn address(value: &Value<'_>) -> Option<IpAddr> {
    match value {
        Value::Opaque(of) => match &**of {
            Opaque::Ip(ip) => Some(*ip),
            _ => None,
        },
        _ => None,
    }
}

fn network(value: &Value<'_>) -> Option<(IpAddr, u8)> {
    match value {
        Value::Opaque(of) => match &**of {
            Opaque::Cidr(ip, bits) => Some((*ip, *bits)),
            _ => None,
        },
        _ => None,
    }
}

fn holds<'a>(name: &str, args: &[Value<'a>], of: fn(IpAddr) -> bool) -> Made<'a> {
    match address(&args[0]) {
        Some(ip) => Ok(Value::Bool(of(ip))),
        None => no_overload(name, args),
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

fn parse(text: &str) -> Result<IpAddr, String> {
    if text.split_once('%').is_some_and(|(ip, zone)| ip.parse::<Ipv6Addr>().is_ok() && !zone.is_empty()) {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )
    })?;
    if is_mapped(ip) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(ip)
}

fn parse_network(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}")
    };
    let (ip, bits) = text.split_once('/').ok_or_else(|| wrong("no '/'"))?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong("unable to parse IP"))?;
    let plain = bits.bytes().all(|digit| digit.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let bits: u8 =
        bits.parse().ok().filter(|_| plain).ok_or_else(|| wrong(&format!("bad bits after slash: {bits:?}")))?;
    if bits > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(wrong("prefix length out of range"));
    }
    if is_mapped(ip) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok((ip, bits))
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

fn covers(of: (IpAddr, u8), ip: IpAddr, bits: u8) -> bool {
    of.0.is_ipv4() == ip.is_ipv4() && masked(of.0, bits) == masked(ip, bits)
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_link_local_unicast(ip))
}
