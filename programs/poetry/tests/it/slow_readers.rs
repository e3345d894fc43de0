//! Clients that ask and never read: the memory that each server holds for one.

use crate::kit::{MIB, Server, TempFile, check, noise, repeated};

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_transformed_poems_holds_little() {
    for length in [100, 1000, 20_000, 60_000, 80_000, 90_000] {
        let poem = "x".repeat(length);
        let request = format!("{}:upper.{poem},", poem.len() + 6);
        let name = format!("transform, {length} bytes");
        check(&name, Server::start(&["transform"]), &repeated(&request));
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_a_poem_holds_little() {
    let poem = TempFile::named("poem", &noise(20 * MIB));
    let serve = |options: &[&str]| {
        let common = ["serve", "--delay", "0", poem.path()];
        Server::start(&[&common[..], options].concat())
    };
    check("poetry serve", serve(&[]), b"");
    for line in ["poem\n", "\n", "no\n"] {
        let name = format!("poetry serve --by-name, {line:?}");
        check(&name, serve(&["--by-name"]), &repeated(line)[..8 * MIB]);
    }
}
