//! The code for strings of HPACK (RFC 7541, appendix B). It is canonical, so the lengths of its codes are all of it.

/// Length in bits of the code of each byte.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7,
    8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7,
    15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24,
    23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23,
    23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26,
    26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20,
    21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27,
    27, 27, 26,
];

/// No code is longer; the end of the string has one of this length, all ones, of which strings are padded.
const LONGEST: usize = 30;

/// The codes of one length are consecutive, in the order of their bytes.
struct Code {
    /// The first code of each length, aligned to the left of 32 bits, and the first that is too large for it.
    first: [u32; LONGEST + 1],
    end: [u64; LONGEST + 1],
    /// Where the bytes of each length begin in `bytes`.
    start: [usize; LONGEST + 1],
    /// All bytes, by the length of their codes and by value.
    bytes: [u8; 256],
}

const CODE: Code = Code::new();

impl Code {
    const fn new() -> Self {
        let mut code =
            Self { first: [0; LONGEST + 1], end: [0; LONGEST + 1], start: [0; LONGEST + 1], bytes: [0; 256] };
        let (mut next, mut placed, mut length) = (0_u64, 0, 1);
        while length <= LONGEST {
            code.start[length] = placed;
            code.first[length] = next as u32;
            let mut byte = 0;
            while byte < 256 {
                if LENGTHS[byte] as usize == length {
                    code.bytes[placed] = byte as u8;
                    placed += 1;
                    next += 1 << (32 - length);
                }
                byte += 1;
            }
            code.end[length] = next;
            length += 1;
        }
        code
    }
}

/// Appends what `coded` stands for to `text`; `None` where it stands for nothing.
pub(crate) fn decode(coded: &[u8], text: &mut Vec<u8>) -> Option<()> {
    // The bits that are not decoded yet, aligned to the left.
    let (mut bits, mut count) = (0_u64, 0);
    let mut coded = coded.iter();
    loop {
        while count <= 56
            && let Some(&byte) = coded.next()
        {
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let window = (bits >> 32) as u32;
        // The shortest have five bits.
        let length = (5..=LONGEST).find(|&length| u64::from(window) < CODE.end[length]);
        match length {
            Some(length) if length <= count => {
                let at = (window - CODE.first[length]) >> (32 - length);
                text.push(CODE.bytes[CODE.start[length] + at as usize]);
                bits <<= length;
                count -= length;
            }
            // What is left is no whole code: less than a byte of ones.
            _ => return (count < 8 && bits == !(u64::MAX >> count)).then_some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code as the standard prints it, made of the lengths alone.
    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut coded, mut bits, mut count) = (Vec::new(), 0_u64, 0);
        for byte in text {
            let length = LENGTHS[usize::from(*byte)] as usize;
            let at =
                CODE.bytes[CODE.start[length]..].iter().position(|other| other == byte).expect("its place");
            let code = (u64::from(CODE.first[length]) >> (32 - length)) + at as u64;
            (bits, count) = (bits << length | code, count + length);
            while count >= 8 {
                count -= 8;
                coded.push((bits >> count) as u8);
            }
        }
        if count > 0 {
            coded.push((bits << (8 - count)) as u8 | (0xff >> count));
        }
        coded
    }

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        decode(coded, &mut text).map(|()| text)
    }

    #[test]
    fn examples_of_the_standard() {
        for (coded, text) in [
            (
                &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..],
                "www.example.com",
            ),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f], "custom-key"),
            (&[0x64, 0x02], "302"),
            (&[], ""),
        ] {
            assert_eq!(decoded(coded).as_deref(), Some(text.as_bytes()));
            assert_eq!(encode(text.as_bytes()), coded);
        }
    }

    /// With a wrong length there would be too much or too little room.
    #[test]
    fn the_code_that_is_left_is_the_end_of_the_string() {
        assert_eq!(CODE.end[LONGEST], 0xffff_fffc);
    }

    #[test]
    fn every_byte_comes_back() {
        let text: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(decoded(&encode(&text)), Some(text));
    }

    #[test]
    fn what_stands_for_nothing() {
        assert_eq!(decoded(&[0xff]), None, "a byte of padding");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end of the string within it");
        assert_eq!(decoded(&[0x00]), None, "padding of zeros");
        assert_eq!(decoded(&[0xf1, 0xe0]), None, "half a code");
    }
}
