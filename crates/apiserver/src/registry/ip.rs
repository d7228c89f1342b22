//! Addresses and networks in objects. Since 1.36 upstream refuses ambiguous forms in new values and warns about unusual ones.
//!
//! Public behaviour: KEP 4858, apimachinery's `util/validation`.

use std::net::{IpAddr, Ipv6Addr};

use super::at::{At, Errors};

const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_NETWORK: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address in a field that is older than the strict rules: any spelling, but only one meaning.
pub fn address(errors: &mut Errors, at: &At<'_>) {
    match parse_sloppily(at.text()) {
        None => errors.push(at.invalid(NO_ADDRESS)),
        Some(_) if at.text().parse::<IpAddr>().is_err() => errors.push(at.invalid("must not have leading 0s")),
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            errors.push(at.invalid("must not be an IPv4-mapped IPv6 address"));
        }
        Some(_) => {}
    }
}

/// As [`address`], but what an old object had may stay.
pub fn address_or_kept(errors: &mut Errors, at: &At<'_>, kept: &[&str]) {
    if !kept.contains(&at.text()) {
        address(errors, at);
    }
}

/// An address in its canonical form.
pub fn canonical_address(errors: &mut Errors, at: &At<'_>) {
    let before = errors.len();
    address(errors, at);
    if errors.len() == before
        && let Some(canonical) = parse_sloppily(at.text()).map(|ip| ip.to_string())
        && canonical != at.text()
    {
        errors.push(at.invalid(&format!("must be in canonical form ({canonical:?})")));
    }
}

/// A network in a field that is older than the strict rules.
pub fn network(errors: &mut Errors, at: &At<'_>) {
    let Some((ip, bits)) = parse_network_sloppily(at.text()) else {
        errors.push(at.invalid(NO_NETWORK));
        return;
    };
    let (address, length) = at.text().split_once('/').unwrap_or_default();
    if address.parse::<IpAddr>().is_err() || length != bits.to_string() {
        errors.push(at.invalid("must not have leading 0s in IP or prefix length"));
    } else if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        errors.push(at.invalid("must not have an IPv4-mapped IPv6 address"));
    } else if masked(ip, bits) != ip {
        errors.push(at.invalid("must not have bits set beyond the prefix length"));
    }
}

/// As [`network`], but what an old object had may stay.
pub fn network_or_kept(errors: &mut Errors, at: &At<'_>, kept: &[&str]) {
    if !kept.contains(&at.text()) {
        network(errors, at);
    }
}

/// A network in its canonical form.
pub fn canonical_network(errors: &mut Errors, at: &At<'_>) {
    let before = errors.len();
    network(errors, at);
    if errors.len() == before
        && let Some((ip, bits)) = parse_network_sloppily(at.text())
        && format!("{ip}/{bits}") != at.text()
    {
        errors.push(at.invalid(&format!("must be in canonical form ({:?})", format!("{ip}/{bits}"))));
    }
}

/// Warns about an address in an unusual form.
pub fn warn_address(warnings: &mut Vec<String>, at: &At<'_>) {
    let Some(ip) = parse_sloppily(at.text()) else { return };
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if mapped || at.text().parse::<IpAddr>().is_err() {
        let shown = unmapped(ip);
        warnings.push(format!("{}: non-standard IP address {:?} is invalid: use \"{shown}\"", at.path(), at.text()));
    } else if ip.is_ipv6() && ip.to_string() != at.text() {
        let why = format!("IPv6 address {:?} should be in RFC 5952 canonical format (\"{ip}\")", at.text());
        warnings.push(format!("{}: {why}", at.path()));
    }
}

/// Warns about a network in an unusual form.
pub fn warn_network(warnings: &mut Vec<String>, at: &At<'_>) {
    let Some((ip, bits)) = parse_network_sloppily(at.text()) else { return };
    let (path, given, network) = (at.path(), at.text(), masked(ip, bits));
    let before = warnings.len();
    if network != ip {
        let all = if ip.is_ipv4() { 32 } else { 128 };
        let one = format!("(should be \"{network}/{bits}\" or \"{ip}/{all}\"?)");
        warnings.push(format!("{path}: CIDR value {given:?} is ambiguous in this context {one}"));
    }
    let (address, length) = given.split_once('/').unwrap_or_default();
    if address.parse::<IpAddr>().is_err() || length != bits.to_string() {
        warnings.push(format!("{path}: non-standard CIDR value {given:?} is invalid: use \"{network}/{bits}\""));
    } else if warnings.len() == before && ip.is_ipv6() && format!("{ip}/{bits}") != given {
        let why = format!("IPv6 CIDR value {given:?} should be in RFC 5952 canonical format (\"{ip}/{bits}\")");
        warnings.push(format!("{path}: {why}"));
    }
}

/// An address that something can be sent to from anywhere in the cluster.
pub fn endpoint_address(errors: &mut Errors, at: &At<'_>) {
    let Some(ip) = parse_sloppily(at.text()) else {
        errors.push(at.invalid("must be a valid IP address"));
        return;
    };
    let (link_local, link_local_multicast) = match unmapped(ip) {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.push(at.invalid(&format!("may not be unspecified ({})", at.text())));
    }
    for (is, what) in [
        (unmapped(ip).is_loopback(), "loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "link-local range (169.254.0.0/16, fe80::/10)"),
        (link_local_multicast, "link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if is {
            errors.push(at.invalid(&format!("may not be in the {what}")));
        }
    }
}

/// Reads an address as upstream used to: leading zeros in an IPv4 address say nothing.
pub fn parse_sloppily(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let octets: Vec<&str> = text.split('.').collect();
    let plain = octets.iter().all(|octet| !octet.is_empty() && octet.bytes().all(|c| c.is_ascii_digit()));
    if octets.len() != 4 || !plain {
        return None;
    }
    let numbers: Option<Vec<u8>> = octets.iter().map(|octet| octet.trim_start_matches('0')).map(number).collect();
    let numbers: [u8; 4] = numbers?.try_into().ok()?;
    Some(IpAddr::from(numbers))
}

fn number(digits: &str) -> Option<u8> {
    if digits.is_empty() { Some(0) } else { digits.parse().ok() }
}

/// Reads a network; the address may have bits beyond the prefix.
pub fn parse_network_sloppily(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let ip = parse_sloppily(address)?;
    let digits = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
    let bits = digits.then(|| number(length.trim_start_matches('0'))).flatten()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some((ip, bits))
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u32::from(v4) & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_unambiguous_addresses_are_new() {
        type Check = fn(&mut Errors, &At<'_>);
        let table: &[(Check, &str, &str)] = &[
            (address, "10.0.0.1", ""),
            (address, "FE80:0::1", ""),
            (address, "10.00.0.1", "must not have leading 0s"),
            (address, "::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
            (address, "10.0.0", NO_ADDRESS),
            (canonical_address, "FE80::1", r#"must be in canonical form ("fe80::1")"#),
            (network, "10.0.0.0/8", ""),
            (network, "10.0.0.1/8", "must not have bits set beyond the prefix length"),
            (network, "10.0.0.0/08", "must not have leading 0s in IP or prefix length"),
            (network, "10.0.0.0/33", NO_NETWORK),
            (network, "0.0.0.0/0", ""),
            (canonical_network, "2001:DB8::/32", r#"must be in canonical form ("2001:db8::/32")"#),
        ];
        for (check, given, why) in table {
            let (value, mut errors) = (json!(given), Vec::new());
            check(&mut errors, &At::new(&value, "ip"));
            let expected = if why.is_empty() { vec![] } else { vec![At::new(&value, "ip").invalid(why)] };
            assert_eq!(errors, expected, "{given}");
        }
    }
}
