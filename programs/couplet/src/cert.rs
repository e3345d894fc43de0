//! `couplet cert`: a certificate authority and certificates issued by it, for tests of TLS.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use couplet::endpoints::quote;
use couplet::http::parse_url;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::exit::Exit;
use crate::output;
use crate::values::flag;

/// File stems that a server name may not take: the authority's and the client's.
const RESERVED: [&str; 2] = ["ca", "client"];

/// The subject of a certificate: a DNS name, perhaps with a leading `*.`, or an IP address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name(String);

impl Name {
    fn parse(text: &str) -> Result<Name, String> {
        let is_label = |label: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            (1..=63).contains(&label.len()) && label.bytes().all(fits) && !label.starts_with('-')
        };
        let converted = ascii_name(text);
        let text = converted.as_deref().unwrap_or(text);
        let dns = text.strip_prefix("*.").unwrap_or(text);
        let is_dns = text.len() <= 253 && dns.split('.').all(is_label);
        if text.parse::<IpAddr>().is_err() && !is_dns {
            return Err("a DNS name or an IP address is expected here".to_owned());
        }
        if RESERVED.contains(&text) {
            return Err(format!(
                "the files {text}.pem and {text}.key are reserved for another certificate"
            ));
        }
        Ok(Name(text.to_owned()))
    }

    /// The name as a file stem: the colons of an IPv6 address and the star become underscores.
    fn file(&self) -> String {
        self.0.replace([':', '*'], "_")
    }

    /// The name as the host of an endpoint.
    fn host(&self) -> String {
        if self.0.contains(':') { format!("[{}]", self.0) } else { self.0.replace('*', "www") }
    }

    fn alternative(&self) -> Result<SanType, rcgen::Error> {
        match self.0.parse::<IpAddr>() {
            Ok(ip) => Ok(SanType::IpAddress(ip)),
            Err(_) => Ok(SanType::DnsName(self.0.clone().try_into()?)),
        }
    }
}

/// A name beyond ASCII, in the form that stands in certificates.
fn ascii_name(text: &str) -> Option<String> {
    let (star, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
    let url = (!name.is_ascii()).then(|| parse_url(format!("http://{name}/")))??;
    Some(format!("{star}{}", url.host()?))
}

/// A certificate and its key, as PEM.
struct Pair {
    name: String,
    what: String,
    certificate: String,
    key: String,
}

const EXAMPLE: &str = "\
Example:
  couplet cert certs localhost 127.0.0.1
  couplet echo --listen tls:7000:cert=certs/localhost.pem:key=certs/localhost.key
  couplet connect tls:localhost:7000:ca=certs/ca.pem

DIR gets ca.pem and ca.key, the authority; NAME.pem and NAME.key for each NAME; and client.pem and
client.key, for servers that require client certificates (client-ca=certs/ca.pem). Only you can
read the keys. In the name of a file, _ stands for a colon or a star.

For tests only: the certificates are valid until 2100, cannot be revoked, and anyone with ca.key can
issue others for any name. Never have a browser or a system trust ca.pem.

Exit codes: 0 success, 1 a file exists or cannot be written, 2 usage error.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Cert {
    /// The folder; it is created if necessary
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Subjects of the certificates, each a DNS name, *.NAME, or an IP address
    #[arg(value_name = "NAME", required = true, value_parser = Name::parse)]
    names: Vec<Name>,
    /// Replace existing files
    #[arg(
        long = "force",
        action = ArgAction::SetTrue,
        value_parser = flag(Existing::Keep, Existing::Replace)
    )]
    existing: Existing,
}

/// The fate of files that exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existing {
    Keep,
    Replace,
}

pub(crate) fn run(options: &Cert) -> Result<(), Exit> {
    let made = make(&options.names);
    let pairs = made.map_err(|error| Exit::failed(format!("cannot make certificates: {error}")))?;
    write(&options.folder, &pairs, options.existing)?;
    output::print(report(&options.folder, &pairs, &options.names[0]).as_bytes())
}

/// Creates the authority, a pair for each name, and the client's pair.
fn make(names: &[Name]) -> Result<Vec<Pair>, rcgen::Error> {
    let (params, key) = (authority_params(), KeyPair::generate()?);
    let mut pairs = vec![Pair {
        name: "ca".to_owned(),
        what: "the authority".to_owned(),
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    }];
    let issuer = Issuer::new(params, key);
    let mut issue = |name: String, what: String, params: CertificateParams| {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        pairs.push(Pair { name, what, certificate, key: key.serialize_pem() });
        Ok(())
    };
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            continue;
        }
        let mut params = leaf_params(&name.0, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names.push(name.alternative()?);
        issue(name.file(), format!("for {}", name.0), params)?;
    }
    let params = leaf_params("couplet test client", ExtendedKeyUsagePurpose::ClientAuth);
    issue("client".to_owned(), "for a client".to_owned(), params)?;
    Ok(pairs)
}

fn authority_params() -> CertificateParams {
    let mut params = base_params("couplet test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Parameters of a certificate issued by the authority.
fn leaf_params(name: &str, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = base_params(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Validity dates wide enough for any test.
fn base_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // The longest common name that X.509 allows.
    if name.len() <= 64 {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}

fn certificate(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.pem"))
}

fn key(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.key"))
}

/// Writes all files, or none if one exists and may not be replaced.
fn write(folder: &Path, pairs: &[Pair], existing: Existing) -> Result<(), Exit> {
    fs::create_dir_all(folder).map_err(|error| file_error("create", folder, &error))?;
    let files = pairs.iter().flat_map(|pair| {
        let certificate = (certificate(folder, &pair.name), &pair.certificate, 0o644);
        [certificate, (key(folder, &pair.name), &pair.key, 0o600)]
    });
    let files: Vec<(PathBuf, &String, u32)> = files.collect();
    if existing == Existing::Keep
        && let Some((path, ..)) = files.iter().find(|(path, ..)| path.symlink_metadata().is_ok())
    {
        let path = path.display();
        return Err(Exit::failed(format!("{path} exists; --force replaces it")));
    }
    for (path, text, mode) in files {
        replace_file(&path, text, mode).map_err(|error| file_error("write", &path, &error))?;
    }
    Ok(())
}

/// Creates a new file instead of overwriting: an old one would keep its mode and its readers.
fn replace_file(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options.open(path)?.write_all(text.as_bytes())
}

fn file_error(what: &str, path: &Path, error: &io::Error) -> Exit {
    Exit::failed(format!("cannot {what} {}: {}", path.display(), output::plain(error)))
}

/// Lists the files and the commands that use them.
fn report(folder: &Path, pairs: &[Pair], first: &Name) -> String {
    let mut text = String::new();
    for Pair { name, what, .. } in pairs {
        let (certificate, key) = (certificate(folder, name), key(folder, name));
        text += &format!("{} and {}: {what}\n", certificate.display(), key.display());
    }
    let path = |path: PathBuf| quote(&path.to_string_lossy());
    let ca = path(certificate(folder, "ca"));
    let identity = |name: &str| {
        format!("cert={}:key={}", path(certificate(folder, name)), path(key(folder, name)))
    };
    let listen = format!("tls:7000:{}", identity(&first.file()));
    let connect = format!("tls:{}:7000:ca={ca}", first.host());
    text += &format!(
        "\nFor tests only: anyone with ca.key can issue certificates for any name.\n\n  \
         couplet echo --listen {}\n  couplet connect {}\n\nWith a certificate of the client:\n\n  \
         couplet echo --listen {}\n  couplet connect {}\n",
        quote_for_shell(&listen),
        quote_for_shell(&connect),
        quote_for_shell(&format!("{listen}:client-ca={ca}")),
        quote_for_shell(&format!("{connect}:{}", identity("client"))),
    );
    text
}

/// Quotes the text as one word of a shell command.
fn quote_for_shell(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,-@%+".contains(c);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_name_or_an_ip_address() {
        for good in ["localhost", "a.example", "*.example", "127.0.0.1", "::1", "a_b", "1.2.3"] {
            assert_eq!(Name::parse(good), Ok(Name(good.to_owned())));
        }
        for (beyond, ascii) in
            [("bücher.test", "xn--bcher-kva.test"), ("*.bücher.test", "*.xn--bcher-kva.test")]
        {
            assert_eq!(Name::parse(beyond), Ok(Name(ascii.to_owned())));
        }
        for bad in
            ["", "a b", "a/b", "..", "a..b", "-a", "*", "a.*", "ca", "client", "[::1]", "a\n"]
        {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Name::parse(&"a.".repeat(127)).is_err());
        assert_eq!(
            (Name("::1".into()).file(), Name("::1".into()).host()),
            ("__1".into(), "[::1]".into())
        );
    }

    #[test]
    fn a_name_is_the_common_name_up_to_the_limit_of_x509() {
        for length in [1, 63, 64, 65, 253] {
            let params = base_params(&"x".repeat(length));
            let common_name = params.distinguished_name.get(&DnType::CommonName);
            assert_eq!(common_name.is_some(), length <= 64, "{length}");
        }
    }

    #[test]
    fn a_word_of_a_shell_is_quoted_if_it_must_be() {
        assert_eq!(quote_for_shell("tls:[::1]:80"), "'tls:[::1]:80'");
        assert_eq!(quote_for_shell("a'b"), r"'a'\''b'");
        assert_eq!(quote_for_shell("tls:7000:cert=a/b.pem"), "tls:7000:cert=a/b.pem");
    }
}
