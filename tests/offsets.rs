//! `berth offsets`: what it prints, and what it refuses.

mod common;

use common::{Folder, berth, refused};

fn list(folder: &Folder, text: &str) -> String {
    let path = folder.file("list.csv");
    std::fs::write(&path, text).expect("it writes");
    path
}

#[test]
fn offsets_come_beside_what_was_read() {
    let folder = Folder::new("offsets-print");
    let file = list(&folder, "id,lower,upper,size,note\nb1,0,3,4,x\nb2,3,9,4,\nb3,0,9,4,y\nb4,9,21,4,\nb5,0,21,4,z\n");
    let first = berth(["offsets", &file, "--capacity", "12"]);
    assert!(first.status.success());
    let text = String::from_utf8(first.stdout.clone()).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (6, "id,lower,upper,size,note,offset"));
    assert!(lines[1].starts_with("b1,0,3,4,x,") && lines[5].starts_with("b5,0,21,4,z,"), "{text}");
    let at: Vec<u64> =
        lines[1..].iter().map(|l| l.rsplit(',').next().expect("a field").parse().expect("a number")).collect();
    assert!(at.iter().all(|at| *at <= 8) && at[0] != at[2] && at[1] != at[2] && at[3] != at[4], "{text}");
    assert_eq!(berth(["offsets", &file, "--capacity", "12"]).stdout, first.stdout);
}

#[test]
fn gaps_alignments_and_last_times_are_read() {
    let folder = Folder::new("offsets-columns");
    // Just where the gap is, another lies in its place.
    let file = list(&folder, "buffer,start,end,size,alignment,gaps\r\na,0,9,4,4,3-5\r\nb,3,5,4,1,\r\n");
    let output = berth(["offsets", &file, "--capacity", "4"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (code, words) =
        refused(&["offsets", &list(&folder, "id,lower,end,size\na,0,3,4\nb,3,5,4\n"), "--capacity", "4"]);
    assert!(code == 1 && words.contains("8 bytes are alive at one time"), "{words}");
}

const UNREACHED: &str = "id,lower,upper,size
0,0,1,4
1,0,1,1
2,1,3,1
3,0,4,1
4,3,4,1
5,4,5,2
6,1,7,4
7,5,8,1
8,7,8,2
9,5,9,1
10,7,9,2
11,8,10,3
12,9,10,3
";

#[test]
fn what_has_no_offsets_is_said_to_have_none_or_to_be_open() {
    let folder = Folder::new("offsets-none");
    let file = list(&folder, "id,lower,upper,size\n0,0,3,4\n1,1,2,3\n");
    let (code, words) = refused(&["offsets", &file, "--capacity", "6"]);
    assert!(code == 1 && words.contains("infeasible") && words.contains("7 bytes are alive at one time"), "{words}");
    assert!(words.contains("best layout met is 7 bytes high, 0 bytes (0.00 %) above the peak load of 7"), "{words}");
    // Six bytes are alive at each time, yet no layout is as low as that.
    let file = list(&folder, UNREACHED);
    let (code, words) = refused(&["offsets", &file, "--capacity", "6"]);
    assert!(code == 1 && words.contains("a search of all layouts found none within 6 bytes"), "{words}");
    let (code, words) = refused(&["offsets", &file, "--capacity", "6", "--effort", "0"]);
    assert!(code == 1 && words.contains("not found within the effort of 0"), "{words}");
    assert!(berth(["offsets", &file, "--capacity", "7"]).status.success());
    // The clock is asked before the first search.
    let (code, words) = refused(&["offsets", &file, "--capacity", "6", "--time-limit", "0"]);
    assert!(code == 1 && words.contains("not found, cut by the clock after 0 s"), "{words}");
    let (_, words) = refused(&["offsets", &file, "--capacity", "6", "--time-limit", "1000000"]);
    assert!(words.contains("a search of all layouts found none within 6 bytes"), "{words}");
    assert_eq!(refused(&["offsets", &file, "--capacity", "6", "--time-limit", "NaN"]).0, 2);
}

#[test]
fn bad_lists_are_refused_by_line_and_column() {
    let folder = Folder::new("offsets-bad");
    let head = "id,lower,upper,size,alignment,gaps\n";
    let rows = [
        ("a,x,2,3,1,", "line 2, column `lower`: `x`"),
        ("a,-1,2,3,1,", "line 2, column `lower`: `-1`"),
        ("a,0,2,99999999999999999999,1,", "column `size`"),
        ("a,2,2,3,1,", "column `upper`"),
        ("a,0,2,3,0,", "column `alignment`"),
        ("a,0,9,3,1,5", "column `gaps`: `5`"),
        ("a,0,9,3,1,5-4", "column `gaps`"),
        ("a,0,9,3,1,1-2@0:1", "only whole gaps"),
        ("a,0,9,3", "line 2: 4 fields, the header has 6"),
        ("a,0,9,3,1,\na,0,9,3,1,", "line 3, column `id`"),
        ("a,0,9,18446744073709551615,1,\nb,0,9,18446744073709551615,1,", "more than can be counted"),
    ];
    for (row, says) in rows {
        let file = list(&folder, &format!("{head}{row}\n"));
        let (code, words) = refused(&["offsets", &file, "--capacity", "12"]);
        assert!(code == 2 && words.contains(says), "{row}: {words}");
    }
    let heads = [
        ("", "no column `id`"),
        ("id,lower,upper\n", "no column `size`"),
        ("id,lower,start,upper,size\n", "two columns for `lower`"),
        ("id,lower,upper,size,offset\n", "`offset`"),
    ];
    for (text, says) in heads {
        let (code, words) = refused(&["offsets", &list(&folder, text), "--capacity", "12"]);
        assert!(code == 2 && words.contains("line 1") && words.contains(says), "{text}: {words}");
    }
    std::fs::write(folder.file("list.csv"), [0xff, 0xfe, 0x00]).expect("it writes");
    assert_eq!(refused(&["offsets", &folder.file("list.csv"), "--capacity", "12"]).0, 2);
    assert_eq!(refused(&["offsets", &folder.file("absent.csv"), "--capacity", "12"]).0, 2);
}
