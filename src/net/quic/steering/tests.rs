use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use quinn::ConnectionIdGenerator as _;

use super::*;
use crate::net::quic::ids::Ids;

const PORT: u16 = 443;
const STRIDE: usize = 100;

fn desks(steering: &Arc<Steering>, port: u16, count: usize) -> Vec<Desk> {
    steering.desks(port, count).expect("there are few")
}

fn steering() -> Arc<Steering> {
    Steering::new(Arc::default())
}

/// A packet of an established connection of this endpoint, told apart by its last byte.
fn packet(desk: &Desk, length: usize, mark: u8) -> Vec<u8> {
    let id = Ids { key: Arc::clone(&desk.steering.ids), number: desk.number }.generate_cid();
    let mut bytes = vec![0; length];
    bytes[0] = 0x40;
    bytes[1..=LENGTH].copy_from_slice(&id);
    bytes[length - 1] = mark;
    bytes
}

fn first_packet(id: &[u8]) -> Vec<u8> {
    let length = u8::try_from(id.len()).expect("short");
    [&[0xc0, 0, 0, 0, 1, length], id, &[0; 40]].concat()
}

fn received(bytes: &[u8], stride: usize) -> RecvMeta {
    RecvMeta { addr: ([192, 0, 2, 7], 4433).into(), len: bytes.len(), stride, ..RecvMeta::default() }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What waits for an endpoint: source, stride and bytes.
fn take(desk: &Desk) -> Vec<(SocketAddr, usize, Vec<u8>)> {
    let mut spaces = vec![vec![0; 4096]; 4];
    let mut buffers: Vec<IoSliceMut<'_>> = spaces.iter_mut().map(|space| IoSliceMut::new(space)).collect();
    let mut metas = [RecvMeta::default(); 4];
    let mut cx = Context::from_waker(Waker::noop());
    match desk.inbox.poll_take(&mut cx, &mut buffers, &mut metas) {
        Poll::Pending => Vec::new(),
        Poll::Ready(count) => {
            (0..count).map(|at| (metas[at].addr, metas[at].stride, buffers[at][..metas[at].len].to_vec())).collect()
        }
    }
}

#[test]
fn what_came_together_is_split_and_each_gets_its_own_in_order() {
    let steering = steering();
    let desks = desks(&steering, PORT, 3);
    let own = [packet(&desks[0], STRIDE, 1), packet(&desks[0], STRIDE, 2), packet(&desks[0], 30, 6)];
    let (third, fourth) = (packet(&desks[2], STRIDE, 3), packet(&desks[2], STRIDE, 4));
    let second = packet(&desks[1], STRIDE, 5);
    let mut buffer = [&own[0][..], &third, &fourth, &own[1], &second, &own[2]].concat();
    let mut meta = received(&buffer, STRIDE);
    desks[0].sort(&mut buffer, &mut meta);
    assert_eq!(buffer[..meta.len], own.concat());
    assert_eq!(meta.stride, STRIDE);
    assert_eq!(take(&desks[2]), [(meta.addr, STRIDE, [third, fourth].concat())], "a run goes in one piece");
    assert_eq!(take(&desks[1]), [(meta.addr, STRIDE, second)]);
    assert!(take(&desks[0]).is_empty());
}

#[test]
fn whoever_waits_is_woken() {
    let steering = steering();
    let desks = desks(&steering, PORT, 2);
    let woken = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut space = vec![0; 4096];
    let mut buffers = [IoSliceMut::new(&mut space)];
    let mut metas = [RecvMeta::default()];
    let pending = desks[1].inbox.poll_take(&mut Context::from_waker(&waker), &mut buffers, &mut metas);
    assert!(pending.is_pending());
    let mut bytes = packet(&desks[1], STRIDE, 0);
    let mut meta = received(&bytes, STRIDE);
    desks[0].sort(&mut bytes, &mut meta);
    assert_eq!((meta.len, woken.0.load(Ordering::SeqCst)), (0, 1));
}

#[test]
fn an_endpoint_that_is_behind_loses_datagrams_and_nobody_waits_for_it() {
    let steering = steering();
    let desks = desks(&steering, PORT, 2);
    for length in [1000, LENGTH + 2] {
        loses_what_does_not_fit(&desks, length);
    }
}

fn loses_what_does_not_fit(desks: &[Desk], length: usize) {
    let one = packet(&desks[1], length, 0);
    let fit = limits::QUIC_INBOX_BYTES / (one.len() + size_of::<Parcel>());
    for _ in 0..fit + 3 {
        let mut bytes = one.clone();
        let mut meta = received(&bytes, bytes.len());
        desks[0].sort(&mut bytes, &mut meta);
    }
    let mut waiting = 0;
    loop {
        let taken = take(&desks[1]).len();
        if taken == 0 {
            break;
        }
        waiting += taken;
    }
    assert_eq!(waiting, fit);
    let mut bytes = one.clone();
    let mut meta = received(&bytes, bytes.len());
    desks[0].sort(&mut bytes, &mut meta);
    assert_eq!(take(&desks[1]).len(), 1, "there is room again");
}

#[test]
fn a_first_packet_goes_to_the_same_endpoint_whoever_reads_it_and_first_packets_are_shared_out() {
    let steering = steering();
    let desks = desks(&steering, PORT, 2);
    let mut shares = [0, 0];
    for n in 0..200_u64 {
        let bytes = first_packet(&n.to_be_bytes());
        let by = [desks[0].number_of(&bytes), desks[1].number_of(&bytes)];
        assert_eq!(by[0], by[1]);
        shares[desks.iter().position(|desk| desk.number == by[0]).expect("one of them")] += 1;
    }
    assert!(shares.iter().all(|share| *share > 60), "{shares:?}");
    // After a Retry it has our ID.
    let id = Ids { key: Arc::clone(&steering.ids), number: desks[1].number }.generate_cid();
    assert_eq!(desks[0].number_of(&first_packet(&id)), desks[1].number);
}

#[test]
fn endpoints_of_two_addresses_know_each_other_on_one_port_only() {
    let steering = steering();
    let (any, one) = (desks(&steering, PORT, 1), desks(&steering, PORT, 1));
    let elsewhere = desks(&steering, PORT + 1, 1);
    let bytes = packet(&any[0], STRIDE, 0);
    assert_eq!(one[0].number_of(&bytes), any[0].number);
    assert_eq!(elsewhere[0].number_of(&bytes), elsewhere[0].number);
    let number = any[0].number;
    drop(any);
    assert_eq!(one[0].number_of(&bytes), one[0].number, "whoever is gone gets nothing");
    assert_eq!(desks(&steering, PORT, 1)[0].number, number, "and its number is given again");
}

#[test]
fn anything_at_all_can_be_read() {
    let steering = steering();
    let desks = desks(&steering, PORT, 2);
    let mut random = vec![0; 64];
    for length in 0..64 {
        for _ in 0..200 {
            aws_lc_rs::rand::fill(&mut random).expect("random bytes");
            // A third each: short, long of version 1, long of any.
            match random[63] % 3 {
                0 => random[0] &= 0x7f,
                1 => {
                    random[0] |= 0x80;
                    random[1..5].copy_from_slice(&QUIC_VERSION.to_be_bytes());
                }
                _ => random[0] |= 0x80,
            }
            let mut bytes = random[..length].to_vec();
            let mut meta = received(&bytes, usize::from(random[62]) % 70);
            desks[0].sort(&mut bytes, &mut meta);
            assert!(meta.len <= length);
        }
        take(&desks[1]);
    }
    assert_eq!(address_of(&[]), Addressee::Anybody);
    assert_eq!(address_of(&[0x40, 1, 2]), Addressee::Anybody);
    assert_eq!(address_of(&[0xc0, 0, 0, 0, 2, 8, 1, 2, 3, 4, 5, 6, 7, 8]), Addressee::Anybody);
    assert_eq!(address_of(&[0xc0, 0, 0, 0, 1, 2, 9, 9]), Addressee::First(&[9, 9]));
    assert_eq!(address_of(&[0xe0, 0, 0, 0, 1, 2, 9, 9]), Addressee::Id(&[9, 9]));
}
