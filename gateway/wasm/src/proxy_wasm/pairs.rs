//! The ABI's form of maps: the number of pairs, the lengths of each name and value, then both, each ended by a zero byte.
//! Numbers have 32 bits, little-endian.

/// Pairs of one map, and bytes of it, that a guest may hand over.
const MAX_PAIRS: usize = 1_024;
const MAX_BYTES: usize = 1 << 20;

pub(super) fn encode<'p>(pairs: impl Iterator<Item = (&'p [u8], &'p [u8])> + Clone) -> Vec<u8> {
    let (mut count, mut bytes) = (0u32, 4);
    for (name, value) in pairs.clone() {
        count += 1;
        bytes += 8 + name.len() + value.len() + 2;
    }
    let mut encoded = Vec::with_capacity(bytes);
    encoded.extend_from_slice(&count.to_le_bytes());
    for (name, value) in pairs.clone() {
        encoded.extend_from_slice(&length(name).to_le_bytes());
        encoded.extend_from_slice(&length(value).to_le_bytes());
    }
    for (name, value) in pairs {
        for text in [name, value] {
            encoded.extend_from_slice(text);
            encoded.push(0);
        }
    }
    encoded
}

fn length(text: &[u8]) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX)
}

/// The pairs in `bytes`; none where they are no map. No bytes are an empty one.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    if bytes.len() > MAX_BYTES {
        return None;
    }
    let (count, rest) = number(bytes)?;
    if count > MAX_PAIRS {
        return None;
    }
    let (mut lengths, mut texts) = rest.split_at_checked(count.checked_mul(8)?)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        let (name, after) = number(lengths)?;
        let (value, after) = number(after)?;
        lengths = after;
        let (name, after) = text(texts, name)?;
        let (value, after) = text(after, value)?;
        texts = after;
        pairs.push((name, value));
    }
    texts.is_empty().then_some(pairs)
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number) as usize, rest))
}

fn text(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let (text, rest) = bytes.split_at_checked(length)?;
    let rest = rest.strip_prefix(&[0])?;
    Some((text, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIRS: [(&[u8], &[u8]); 3] = [(b":path", b"/a"), (b"x-empty", b""), (b"x-bytes", b"\xff\0")];

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        let encoded = encode(PAIRS.into_iter());
        assert_eq!(encoded[..12], [3, 0, 0, 0, 5, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(decode(&encoded).unwrap(), PAIRS);
        assert_eq!(decode(b"").unwrap(), []);
        assert_eq!(encode(std::iter::empty()), [0; 4]);
    }

    #[test]
    fn whatever_is_cut_off_or_too_long_is_no_map() {
        let encoded = encode(PAIRS.into_iter());
        for length in 1..encoded.len() {
            assert_eq!(decode(&encoded[..length]), None, "{length} bytes of {}", encoded.len());
        }
        assert_eq!(decode(&[&encoded[..], b"x"].concat()), None);
        for huge in [[0xff; 4].to_vec(), [&1u32.to_le_bytes()[..], &[0xff; 8]].concat(), vec![0; MAX_BYTES + 1]] {
            assert_eq!(decode(&huge), None);
        }
        let many = encode(vec![(&b"a"[..], &b"b"[..]); MAX_PAIRS + 1].into_iter());
        assert_eq!(decode(&many), None);
    }
}
