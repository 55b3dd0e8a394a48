//! The programs of `golden/programs`, written by hand: they verify, their facts are right, and all forms agree.

mod common;

use berth_ir::verify::{facts, verify, violations};
use berth_ir::{Target, binary, text};
use common::{files, parse, target};

#[test]
fn hand_written_programs_verify() {
    let mut wrong = Vec::new();
    for (name, source) in files("programs") {
        let program = parse(&name, &source);
        let target = target(&program.header.target);
        for violation in violations(&target, &program, None) {
            wrong.push(format!("{name}: {violation}"));
        }
        let counted = facts(&target, &program).unwrap_or_default();
        if counted != program.facts {
            let right = text::print(&berth_ir::Program { facts: counted, ..program.clone() });
            wrong.push(format!("{name}: facts should be\n{}", &right[right.find("    facts:").unwrap()..]));
        }
        assert!(
            wrong.iter().any(|w| w.starts_with(&name)) || *verify(&target, program.clone(), None).unwrap() == program
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn text_and_binary_give_the_same_program() {
    for (name, source) in files("programs").into_iter().chain(files("refused")) {
        let program = parse(&name, &source);
        let printed = text::print(&program);
        assert_eq!(parse(&name, &printed), program, "{name}");
        assert_eq!(text::print(&parse(&name, &printed)), printed, "{name}");
        assert_eq!(binary::read(&binary::write(&program)).as_ref(), Ok(&program), "{name}");
    }
}

#[test]
fn targets_print_and_read_back() {
    for (name, source) in files("targets") {
        let target = Target::from_ron(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(target.name.replace('-', "_"), name);
        assert_eq!(Target::from_ron(&target.to_ron()).as_ref(), Ok(&target), "{name}");
    }
}
