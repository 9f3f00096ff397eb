//! The Huffman code of HPACK (RFC 7541 appendix B), which QPACK uses too. It is canonical: the codes follow from their lengths,
//! so the lengths are all that is written down here, and both tables are computed from them.

use bytes::{BufMut, BytesMut};

/// The symbol that ends a string, of which only the first bits are ever sent, as padding.
const END: usize = 256;
const LONGEST: usize = 30;
/// Codes of up to this many bits are looked up at once: those of all characters that are frequent.
const QUICK: usize = 8;

/// Bits of the code of each byte, and of the end.
#[rustfmt::skip]
const LENGTHS: [u8; END + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22,
    20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23,
    23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22,
    22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26,
    27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27,
    26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

static CODES: [u32; END + 1] = CANON.codes;
/// By the next bits: the byte, and the length of its code; 0 if that is longer.
static QUICKLY: [(u8, u8); 1 << QUICK] = quickly();

const CANON: Canon = Canon::new();

/// What follows from the lengths.
struct Canon {
    codes: [u32; END + 1],
    /// By length: the first code, and where its symbol stands in `symbols`.
    first: [u32; LONGEST + 1],
    start: [u16; LONGEST + 2],
    /// Ordered by code.
    symbols: [u16; END + 1],
}

impl Canon {
    const fn new() -> Self {
        let mut canon =
            Self { codes: [0; END + 1], first: [0; LONGEST + 1], start: [0; LONGEST + 2], symbols: [0; END + 1] };
        let (mut code, mut place, mut length) = (0, 0, 1);
        while length <= LONGEST {
            code <<= 1;
            canon.first[length] = code;
            canon.start[length] = place as u16;
            let mut symbol = 0;
            while symbol <= END {
                if LENGTHS[symbol] as usize == length {
                    canon.codes[symbol] = code;
                    canon.symbols[place] = symbol as u16;
                    code += 1;
                    place += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        canon.start[LONGEST + 1] = place as u16;
        canon
    }
}

const fn quickly() -> [(u8, u8); 1 << QUICK] {
    let mut table = [(0, 0); 1 << QUICK];
    let mut symbol = 0;
    while symbol < END {
        let length = LENGTHS[symbol] as usize;
        if length <= QUICK {
            let first = (CANON.codes[symbol] as usize) << (QUICK - length);
            let mut rest = 0;
            while rest < 1 << (QUICK - length) {
                table[first + rest] = (symbol as u8, length as u8);
                rest += 1;
            }
        }
        symbol += 1;
    }
    table
}

static FIRST: [u32; LONGEST + 1] = CANON.first;
static START: [u16; LONGEST + 2] = CANON.start;
static SYMBOLS: [u16; END + 1] = CANON.symbols;

/// Bytes that `text` takes.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum();
    bits.div_ceil(8)
}

/// Appends `text`.
pub(super) fn encode(text: &[u8], buffer: &mut BytesMut) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in text {
        let at = usize::from(*byte);
        let length = u32::from(LENGTHS[at]);
        bits = bits << length | u64::from(CODES[at]);
        count += length;
        if count >= 32 {
            count -= 32;
            buffer.put_u32((bits >> count) as u32);
        }
    }
    while count >= 8 {
        count -= 8;
        buffer.put_u8((bits >> count) as u8);
    }
    if count > 0 {
        // Padded with the beginning of the end: ones.
        buffer.put_u8((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

/// Appends what `coded` stands for.
///
/// # Errors
/// It is no such code, contains the end, or is padded with anything but up to seven ones.
pub(super) fn decode(coded: &[u8], buffer: &mut BytesMut) -> Result<(), ()> {
    let start = buffer.len();
    // The shortest codes have five bits.
    buffer.resize(start + coded.len() * 8 / 5, 0);
    let written = decode_into(coded, &mut buffer[start..]).ok_or(())?;
    buffer.truncate(start + written);
    Ok(())
}

/// How much of `text`, which has room for everything, was written.
fn decode_into(coded: &[u8], text: &mut [u8]) -> Option<usize> {
    let mut coded = coded.iter();
    let mut text = text.iter_mut().enumerate();
    let mut written = 0;
    let mut write = |symbol| {
        let (at, place) = text.next()?;
        *place = symbol;
        written = at + 1;
        Some(())
    };
    // The bits that were read and stand for nothing yet are the low `count` of `bits`.
    let (mut bits, mut count) = (0_u64, 0_usize);
    loop {
        while count <= 56
            && let Some(byte) = coded.next()
        {
            bits = bits << 8 | u64::from(*byte);
            count += 8;
        }
        if count < QUICK {
            break;
        }
        let (symbol, length) = QUICKLY[usize::from((bits >> (count - QUICK)) as u8)];
        let (symbol, length) = if length > 0 { (symbol, usize::from(length)) } else { look_up(bits, count)? };
        write(symbol)?;
        count -= length;
    }
    // Fewer than eight bits are left; behind them are ones, as the padding would be.
    while count > 0 {
        let next = (bits << (QUICK - count)) as u8 | 0xff >> count;
        let (symbol, length) = QUICKLY[usize::from(next)];
        if length == 0 || usize::from(length) > count {
            return (next == 0xff).then_some(written);
        }
        write(symbol)?;
        count -= usize::from(length);
    }
    Some(written)
}

/// A code that is longer than [`QUICK`].
fn look_up(bits: u64, count: usize) -> Option<(u8, usize)> {
    for length in QUICK + 1..=LONGEST.min(count) {
        let code = (bits >> (count - length)) as u32 & ((1 << length) - 1);
        let place = u32::from(START[length]) + code.checked_sub(FIRST[length])?;
        if place < u32::from(START[length + 1]) {
            // The end is no byte: it may not be there (RFC 7541 section 5.2).
            return Some((u8::try_from(SYMBOLS[place as usize]).ok()?, length));
        }
    }
    None
}
