//! Loopback addresses for one cluster.
//!
//! Every node wants the ports 6333, 6334 and 6335, as in a real cluster, so every node needs an address of its own. A
//! [`Block`] is a /24 of 127.0.0.0/8 that belongs to one cluster. Blocks are claimed by holding a listening socket in
//! them, which works across threads and processes and is undone by the kernel when a process dies.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// The port of the socket that marks a block as taken. Below the ephemeral range, and none of Qdrant's.
const GUARD_PORT: u16 = 6336;

/// How many random blocks to try. With 65,000 blocks even a machine full of clusters finds a free one far sooner.
const ATTEMPTS: usize = 256;

const BALANCER: u8 = 2;
const DNS: u8 = 3;
const PROXY: u8 = 4;
const FIRST_NODE: u8 = 11;
const FIRST_SPARE: u8 = 151;

/// A /24 of loopback addresses that belongs to this value until it is dropped.
///
/// | Host part | Belongs to |
/// |---|---|
/// | `.1` | the claim itself |
/// | `.2` | the balancer, which plays the ClusterIP |
/// | `.3` | DNS |
/// | `.4` | a proxy under test |
/// | `.11 + i` | node *i* |
/// | `.151 + k` | new addresses of nodes that moved |
#[derive(Debug)]
pub struct Block {
    net: [u8; 3],
    _guard: TcpListener,
}

impl Block {
    /// Takes a block that nobody else uses.
    ///
    /// # Errors
    ///
    /// When no loopback address but 127.0.0.1 can be bound, which is so on systems other than Linux.
    pub fn claim() -> io::Result<Block> {
        // Where to look is no decision a test could depend on, so the seed is not an input.
        let mut refused = None;
        for _ in 0..ATTEMPTS {
            let dice = RandomState::new().build_hasher().finish().to_le_bytes();
            let (a, b) = (dice[0], dice[1]);
            // 127.0.0.0/24 and 127.0.1.0/24 are what distributions use themselves; the last block holds the broadcast.
            if (a == 0 && b <= 1) || (a == 255 && b == 255) {
                continue;
            }
            match Block::take([127, a, b]) {
                Ok(block) => return Ok(block),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    /// Takes 127.0.0.0/24, whose addresses can be written in a document: nodes at 127.0.0.11, 127.0.0.12 and so on.
    ///
    /// # Errors
    ///
    /// When another process of this machine holds it.
    pub fn fixed() -> io::Result<Block> {
        Block::take([127, 0, 0])
    }

    fn take(net: [u8; 3]) -> io::Result<Block> {
        let guard = TcpListener::bind(SocketAddr::new(host(net, 1), GUARD_PORT))?;
        Ok(Block { net, _guard: guard })
    }

    /// The address of node `i`.
    ///
    /// # Panics
    ///
    /// From the 141st node on: the block is too small for them.
    #[must_use]
    pub fn node(&self, i: usize) -> IpAddr {
        self.numbered(FIRST_NODE, FIRST_SPARE, i)
    }

    /// The `k`-th address for a node that moves.
    ///
    /// # Panics
    ///
    /// From the 105th on.
    #[must_use]
    pub fn spare(&self, k: usize) -> IpAddr {
        self.numbered(FIRST_SPARE, u8::MAX, k)
    }

    /// The address of the balancer, which stands for the ClusterIP.
    #[must_use]
    pub fn balancer(&self) -> IpAddr {
        host(self.net, BALANCER)
    }

    /// The address of the DNS server.
    #[must_use]
    pub fn dns(&self) -> IpAddr {
        host(self.net, DNS)
    }

    /// An address that is left for a proxy under test, so that it too can listen on 6333 and 6334.
    #[must_use]
    pub fn proxy(&self) -> IpAddr {
        host(self.net, PROXY)
    }

    fn numbered(&self, first: u8, end: u8, n: usize) -> IpAddr {
        let last = u8::try_from(n)
            .ok()
            .and_then(|n| first.checked_add(n))
            .filter(|last| *last < end)
            .unwrap_or_else(|| {
                panic!("a block of addresses has no room for number {n} of .{first} to .{end}")
            });
        host(self.net, last)
    }
}

fn host(net: [u8; 3], last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(net[0], net[1], net[2], last))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn claimed_blocks_are_disjoint() {
        let blocks: Vec<Block> = (0..32).map(|_| Block::claim().expect("a free block")).collect();
        let addresses: HashSet<IpAddr> = blocks
            .iter()
            .flat_map(|block| {
                [block.balancer(), block.dns(), block.proxy(), block.node(0), block.node(2), block.spare(0)]
            })
            .collect();
        assert_eq!(addresses.len(), blocks.len() * 6);
    }

    #[test]
    fn a_block_is_taken_until_it_is_dropped() {
        let block = Block::claim().expect("a free block");
        let net = block.net;
        assert_eq!(Block::take(net).expect_err("held").kind(), io::ErrorKind::AddrInUse);
        drop(block);
        Block::take(net).expect("free again");
    }

    #[test]
    #[should_panic(expected = "no room for number 140")]
    fn nodes_do_not_run_into_the_spare_addresses() {
        let block = Block::claim().expect("a free block");
        let _ = block.node(140);
    }
}
