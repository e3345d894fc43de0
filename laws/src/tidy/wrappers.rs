//! Wrappers forward every callback: default methods would hide a missing one.

use std::collections::BTreeMap;

use syn::{ImplItem, Item, TraitItem, TypeParamBound, WherePredicate};

use super::source::{assert_none, last_of, library, line, name_of, names_in, with_parsed_code};

/// A trait, and the bounds that mark its wrappers.
const KINDS: [(&str, &[&str]); 4] = [
    ("Protocol", &["Protocol", "LineProtocol", "StringProtocol"]),
    ("LineProtocol", &["LineProtocol"]),
    ("StringProtocol", &["StringProtocol"]),
    ("Factory", &["Factory"]),
];

/// The callbacks of a trait: its methods that may change the object.
fn callbacks(of: &syn::ItemTrait) -> Vec<String> {
    let functions = of.items.iter().filter_map(|item| match item {
        TraitItem::Fn(function) => Some(&function.sig),
        _ => None,
    });
    let changes = |signature: &&syn::Signature| {
        let kind = signature.receiver().map(|receiver| &receiver.kind);
        matches!(kind, Some(syn::ReceiverKind::Reference(_, _, object)) if object.is_some())
    };
    functions.filter(changes).map(|signature| signature.ident.to_string()).collect()
}

/// True for `impl<P: Protocol> Protocol for Wrapper<P>`.
fn wraps(item: &syn::ItemImpl, kinds: &[&str]) -> bool {
    let is = |bound: &TypeParamBound| matches!(bound, TypeParamBound::Trait(bound) if kinds.contains(&&*last_of(&bound.path)));
    let clauses = item.generics.where_clause.iter().flat_map(|clause| &clause.predicates);
    let clauses = clauses.filter_map(|predicate| match predicate {
        WherePredicate::Type(ty) => Some(&ty.bounds),
        _ => None,
    });
    let in_place = item.generics.type_params().map(|parameter| &parameter.bounds);
    in_place.chain(clauses).any(|bounds| bounds.iter().any(is))
}

#[test]
fn every_wrapper_forwards_every_callback() {
    with_parsed_code(|| {
        let files = library("couplet");
        let items = || files.iter().flat_map(|file| &file.syntax.items);
        // The callbacks of each trait, and the functions that each macro defines.
        let (mut traits, mut macros) = (BTreeMap::new(), BTreeMap::new());
        for item in items() {
            if let Item::Trait(item) = item {
                traits.insert(item.ident.to_string(), callbacks(item));
            } else if let Item::Macro(syn::ItemMacro { ident: Some(name), mac, .. }) = item {
                let names = names_in(mac.tokens.clone());
                let functions = names.windows(2).filter(|pair| pair[0] == "fn");
                macros.insert(name.to_string(), functions.map(|pair| pair[1].clone()).collect());
            }
        }
        let has = |item: &ImplItem| match item {
            ImplItem::Fn(function) => vec![function.sig.ident.to_string()],
            ImplItem::Macro(of) => macros.get(&last_of(&of.mac.path)).cloned().unwrap_or_default(),
            _ => Vec::new(),
        };
        let (mut broken, mut wrappers) = (Vec::new(), 0);
        for file in files {
            for item in &file.syntax.items {
                let Item::Impl(item) = item else { continue };
                let name =
                    item.trait_.as_ref().map_or_else(String::new, |(path, ..)| last_of(path));
                let kind = KINDS.iter().find(|(kind, kinds)| *kind == name && wraps(item, kinds));
                if kind.is_none() {
                    continue;
                }
                wrappers += 1;
                let has: Vec<String> = item.items.iter().flat_map(has).collect();
                for missing in traits[&name].iter().filter(|callback| !has.contains(callback)) {
                    let (path, line) = (&file.path, line(item.impl_token.span));
                    let wrapper = name_of(&item.self_ty);
                    broken.push(format!("{path}:{line}: {wrapper} does not forward {missing}"));
                }
            }
        }
        assert!(wrappers >= 6, "the wrappers were not found; has their form changed?");
        // A framer forwards every callback, so its protocols need it too.
        for name in ["LineProtocol", "StringProtocol"] {
            let all = traits["Protocol"].iter().chain(&traits["ProtocolExtension"]);
            const OF_BYTES: [&str; 5] =
                ["data_received", "extension", "inner", "type_name", "upgraded"];
            let all = all.filter(|callback| !OF_BYTES.contains(&&***callback));
            let missing = all.filter(|callback| !traits[name].contains(callback));
            broken.extend(missing.map(|callback| format!("{name} has no {callback}")));
        }
        assert_none(&broken, "a wrapper forwards every callback to what it wraps");
    });
}
