//! A thousand concurrent clients.

use rustix::process::Signal;

use crate::kit::{Client, Server, TempFile, allow_a_crowd, noise};

const CROWD: usize = 1000;

#[test]
fn a_thousand_clients_of_a_poetry_server_get_each_the_whole_poem() {
    if !allow_a_crowd() {
        return;
    }
    let bytes = noise(3000);
    let poem = TempFile::new(&bytes);
    let pace = ["--delay", "0.1", "--num-bytes", "300"];
    let args = [&["serve", poem.path()], &pace[..]].concat();
    let server = Server::start_limited(1024, &args);
    let clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for mut client in clients {
        assert!(client.read_to_end().unwrap() == bytes);
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_clients_of_a_server_by_name_each_get_their_poem() {
    if !allow_a_crowd() {
        return;
    }
    let bytes = noise(3000);
    let poem = TempFile::named("noise.bin", &bytes);
    let pace = ["--by-name", "--delay", "0.1", "--num-bytes", "1000"];
    let args = [&["serve", poem.path()], &pace[..]].concat();
    let server = Server::start_limited(1024, &args);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("no {n}\nnoise\n").as_bytes());
        client.finish();
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        let error = format!("error there is no poem \"no {n}\"; an empty line gets the titles\r\n");
        let expected = [error.as_bytes(), b"poem 3000 noise\r\n", &bytes].concat();
        assert!(client.read_to_end().unwrap() == expected);
    }
    server.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_thousand_clients_of_a_transformation_server_get_each_their_own_words_back() {
    if !allow_a_crowd() {
        return;
    }
    let server = Server::start_limited(1024, &["transform"]);
    let mut clients: Vec<Client> = (0..CROWD).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("14:upper.poem {n:03},0").as_bytes());
    }
    for (n, mut client) in clients.into_iter().enumerate() {
        assert_eq!(client.read_exact(11), format!("8:POEM {n:03},").as_bytes());
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
    server.stop(Signal::TERM).quietly(0);
}
