//! RFC 7541, by its own sections. Huffman-coded strings are the examples of its appendix C.

use super::List;
use crate::frame::{self, code, flag};
use crate::hpack::{self, Form};
use crate::script::{Requests, Script, opened};

/// `custom-key`, Huffman-coded.
const CODED_KEY: &[u8] = &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
/// `custom-value`, Huffman-coded.
const CODED_VALUE: &[u8] = &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf];
/// The static entry of `user-agent`.
const USER_AGENT: usize = 58;
/// The newest entry of the dynamic table.
const NEWEST: usize = 62;

pub(super) fn add(list: &mut List, requests: &Requests) {
    tables(list, requests);
    primitives(list, requests);
    representations(list, requests);
    size_updates(list, requests);
}

/// The request's fields and then these are a connection error.
fn undecodable(requests: &Requests, fields: &[u8]) -> Script {
    opened().send(requests.get_encoded(1, fields)).connection_error(&[code::COMPRESSION_ERROR])
}

fn accepted(requests: &Requests, fields: &[u8]) -> Script {
    opened().send(requests.get_encoded(1, fields)).answer(1)
}

fn kept() -> Vec<u8> {
    hpack::literal(Form::Indexing, b"custom-key", b"custom-value")
}

fn tables(list: &mut List, requests: &Requests) {
    list.section("hpack/2.3");
    list.case(
        "An entry added by one request is known to the next",
        opened()
            .send(requests.get_encoded(1, &kept()))
            .await_end(1)
            .send(requests.get_encoded(3, &hpack::indexed(NEWEST)))
            .answer(3),
    );
    list.case("An index beyond both tables is a decoding error", undecodable(requests, &hpack::indexed(NEWEST)));
    list.case(
        "A name's index beyond both tables is a decoding error",
        undecodable(requests, &hpack::literal_indexed(Form::Plain, NEWEST, &hpack::text(b"ok"))),
    );
    list.wider(
        "A literal without indexing adds no entry",
        undecodable(
            requests,
            &[hpack::literal(Form::Plain, b"custom-key", b"custom-value"), hpack::indexed(NEWEST)].concat(),
        ),
    );
    list.wider(
        "A literal that is never indexed adds no entry",
        undecodable(
            requests,
            &[hpack::literal(Form::Never, b"custom-key", b"custom-value"), hpack::indexed(NEWEST)].concat(),
        ),
    );
}

fn primitives(list: &mut List, requests: &Requests) {
    list.section("hpack/5.1");
    list.wider("An integer that overflows is a decoding error", {
        let integer = [&[0xff][..], &[0xff; 12], &[0x7f]].concat();
        undecodable(requests, &integer)
    });
    list.wider("An integer that is cut off is a decoding error", undecodable(requests, &[0xff, 0x80]));

    let valued = |coded: &[u8]| hpack::literal_encoded(Form::Plain, &hpack::text(b"x-test"), &hpack::huffman(coded));
    list.section("hpack/5.2");
    list.wider(
        "A string that is cut off is a decoding error",
        undecodable(requests, &[&[0x00][..], b"\x0ax-t"].concat()),
    );
    list.case(
        "Huffman padding of more than 7 bits is a decoding error",
        undecodable(requests, &valued(&[CODED_VALUE, &[0xff]].concat())),
    );
    list.case(
        "Huffman padding that is not all ones is a decoding error",
        // `custom-key` has seven bits of padding; here the last one is zero, and they still are no symbol.
        undecodable(requests, &valued(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7e])),
    );
    list.case(
        "The Huffman code of EOS is a decoding error",
        undecodable(requests, &valued(&[0xff, 0xff, 0xff, 0xff, 0x25, 0xa8])),
    );
    list.wider("An empty string may be said to be Huffman-coded", accepted(requests, &valued(b"")));
}

fn representations(list: &mut List, requests: &Requests) {
    list.section("hpack/6.1");
    list.case("Index 0 is a decoding error", undecodable(requests, &hpack::indexed(0)));
    list.case("Static entries are known", {
        let text = |index, value: &str| hpack::literal_indexed(Form::Plain, index, &hpack::text(value.as_bytes()));
        let block =
            [hpack::indexed(2), hpack::indexed(6), text(1, &requests.authority), text(4, &requests.path)].concat();
        opened().send(frame::headers(1, flag::END_STREAM, &block)).answer(1)
    });

    list.section("hpack/6.2");
    let rules = [
        (
            Form::Indexing,
            [
                "A literal with incremental indexing, known name",
                "A literal with incremental indexing, known name, Huffman-coded",
                "A literal with incremental indexing, new name",
                "A literal with incremental indexing, new name, Huffman-coded",
            ],
        ),
        (
            Form::Plain,
            [
                "A literal without indexing, known name",
                "A literal without indexing, known name, Huffman-coded",
                "A literal without indexing, new name",
                "A literal without indexing, new name, Huffman-coded",
            ],
        ),
        (
            Form::Never,
            [
                "A literal never indexed, known name",
                "A literal never indexed, known name, Huffman-coded",
                "A literal never indexed, new name",
                "A literal never indexed, new name, Huffman-coded",
            ],
        ),
    ];
    for (form, [known, known_coded, new, new_coded]) in rules {
        let value = hpack::text(b"custom-value");
        list.case(known, accepted(requests, &hpack::literal_indexed(form, USER_AGENT, &value)));
        list.case(
            known_coded,
            accepted(requests, &hpack::literal_indexed(form, USER_AGENT, &hpack::huffman(CODED_VALUE))),
        );
        list.case(new, accepted(requests, &hpack::literal(form, b"custom-key", b"custom-value")));
        list.case(
            new_coded,
            accepted(requests, &hpack::literal_encoded(form, &hpack::huffman(CODED_KEY), &hpack::huffman(CODED_VALUE))),
        );
    }
}

fn size_updates(list: &mut List, requests: &Requests) {
    let updated = |stream, sizes: &[usize], more: &[u8]| {
        let updates: Vec<u8> = sizes.iter().flat_map(|&size| hpack::table_size(size)).collect();
        frame::headers(stream, flag::END_STREAM, &[&updates[..], &requests.block("GET", &[]), more].concat())
    };
    list.section("hpack/4.2");
    list.case(
        "A table size update before the first field is accepted",
        opened().send(updated(1, &[128], &[])).answer(1),
    );
    list.case(
        "Two table size updates before the first field are accepted",
        opened().send(updated(1, &[0, 4096], &[])).answer(1),
    );
    list.case("A table size update behind a field is a decoding error", undecodable(requests, &hpack::table_size(1)));

    list.section("hpack/4.3");
    list.wider(
        "A table size of 0 removes every entry",
        opened()
            .send(requests.get_encoded(1, &kept()))
            .await_end(1)
            .send(updated(3, &[0, 4096], &hpack::indexed(NEWEST)))
            .connection_error(&[code::COMPRESSION_ERROR]),
    );

    list.section("hpack/4.4");
    let large = hpack::literal(Form::Indexing, b"x-large", &[b'x'; 200]);
    list.wider("An entry larger than the table is no error", opened().send(updated(1, &[128], &large)).answer(1));
    list.wider(
        "An entry larger than the table empties it",
        opened()
            .send(updated(1, &[128], &[kept(), large, hpack::indexed(NEWEST)].concat()))
            .connection_error(&[code::COMPRESSION_ERROR]),
    );

    list.section("hpack/6.3");
    list.case(
        "A table size above what the server allowed is a decoding error",
        opened().send(updated(1, &[1 << 28], &[])).connection_error(&[code::COMPRESSION_ERROR]),
    );
}
