use super::*;
use crate::memory::allocate;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use std::io::Write;
use vm_memory::{Bytes, GuestAddress};

fn image(text_offset: u64, image_size: u64, flags: u64, len: usize) -> Vec<u8> {
    let mut b = vec![0u8; len.max(64)];
    b[8..16].copy_from_slice(&text_offset.to_le_bytes());
    b[16..24].copy_from_slice(&image_size.to_le_bytes());
    b[24..32].copy_from_slice(&flags.to_le_bytes());
    b[56..60].copy_from_slice(b"ARM\x64");
    b
}

/// An Image with an EFI stub, whose PE header has one section up to `end`.
fn pe_image(end: u32) -> Vec<u8> {
    let mut b = image(0, 0x10_0000, 0, end as usize);
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(0, b"MZ");
    put(0x3c, &0x40u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x44, &0xaa64u16.to_le_bytes()); // machine
    put(0x46, &1u16.to_le_bytes()); // sections
    put(0x54, &112u16.to_le_bytes()); // size of the optional header
    put(0x58, &0x20bu16.to_le_bytes()); // PE32+
    let section = 0x58 + 112;
    put(section, b".text\0\0\0");
    put(section + 8, &0x1000u32.to_le_bytes()); // virtual size
    put(section + 16, &(end - 0x1000).to_le_bytes()); // raw size
    put(section + 20, &0x1000u32.to_le_bytes()); // raw offset
    put(56, b"ARM\x64");
    b
}

#[test]
fn an_image_with_an_efi_stub_is_taken_whole() {
    assert_eq!(load(&pe_image(0x2000)).unwrap().kernel, 0x4000_0000..0x4010_0000);
}

fn elf(machine: u16, class: u8, data: u8, paddr: u64, filesz: u64) -> Vec<u8> {
    let mut b = vec![0u8; 0x1010];
    b[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data, 1, 0]);
    let mut put = |at: usize, v: &[u8]| b[at..at + v.len()].copy_from_slice(v);
    put(16, &2u16.to_le_bytes());
    put(18, &machine.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &0xffff_0000_0000_0008u64.to_le_bytes()); // e_entry, virtual
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    put(58, &64u16.to_le_bytes());
    put(64, &1u32.to_le_bytes()); // PT_LOAD
    put(72, &0x1000u64.to_le_bytes());
    put(80, &0xffff_0000_0000_0000u64.to_le_bytes());
    put(88, &paddr.to_le_bytes());
    put(96, &filesz.to_le_bytes());
    put(104, &0x2000u64.to_le_bytes());
    put(0x1000, b"segment");
    b
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut e = GzEncoder::new(Vec::new(), Compression::fast());
    e.write_all(bytes).unwrap();
    e.finish().unwrap()
}

fn ram() -> std::sync::Arc<Memory> {
    allocate("ram", 0x4000_0000..0x4400_0000).unwrap()
}

fn seen(ram: &std::sync::Arc<Memory>) -> crate::memory::Space {
    crate::memory::space(ram).unwrap()
}

fn load(bytes: &[u8]) -> Result<Loaded, String> {
    load_auto(&ram(), Path::new("K"), bytes.to_vec()).map_err(|e| e.to_string())
}

#[test]
fn an_image_goes_to_its_offset_and_claims_its_bss() {
    let m = ram();
    let mut bytes = image(0x8_0000, 0x20_0000, 2, 100);
    bytes[99] = 0x5a;
    let l = load_auto(&m, Path::new("K"), bytes.clone()).unwrap();
    assert_eq!(l.entry, 0x4008_0000);
    assert_eq!(l.kernel, 0x4008_0000..0x4028_0000);
    assert_eq!(l.page_size, Some(PageSize::K4));
    assert_eq!(seen(&m).read_obj::<u8>(GuestAddress(0x4008_0000 + 99)).unwrap(), 0x5a);
    assert_eq!(load(&gz(&bytes)).unwrap(), l);
}

#[test]
fn an_elf_goes_to_its_physical_addresses() {
    let m = ram();
    let l = load_auto(&m, Path::new("K"), elf(183, 2, 1, 0x4010_0000, 7)).unwrap();
    assert_eq!(l.entry, 0x4010_0008);
    assert_eq!(l.kernel, 0x4010_0000..0x4010_2000);
    let mut b = [0; 7];
    seen(&m).read_slice(&mut b, GuestAddress(0x4010_0000)).unwrap();
    assert_eq!(&b, b"segment");
}

#[test]
fn a_flat_program_goes_where_the_manual_says() {
    let l = load_raw(&ram(), Path::new("K"), &[1, 2, 3]).unwrap();
    assert_eq!((l.entry, l.kernel), (0x4008_0000, 0x4008_0000..0x4008_0003));
}

#[test]
fn bad_kernels_are_refused_in_one_line() {
    let whole = gz(&image(0, 0x1000, 0, 5000));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"#!/bin/sh\n".to_vec(), "The kernel K is not an arm64 kernel: neither an Image, nor gzip, nor ELF"),
        (b"MZ\0\0".to_vec(), "The kernel K is cut short: 4 bytes are less than an Image header"),
        (image(0, 0x1000, 0, 64)[..62].to_vec(), "The kernel K is cut short: 62 bytes"),
        (image(0, 0x1000, 1, 64), "The kernel K is big-endian"),
        (
            pe_image(0x2000)[..0x70].to_vec(),
            "The kernel K is cut short or damaged: 112 bytes, and its PE header",
        ),
        (
            pe_image(0x2000)[..0x1fff].to_vec(),
            "The kernel K is cut short: 8191 bytes, of 8192 that its header",
        ),
        (image(0, 1 << 50, 0, 64), "The kernel K has a damaged Image header"),
        (
            image(0, 0x1000_0000, 0, 64),
            "The kernel K does not fit: it needs 0x40000000 to 0x50000000, RAM is 0x40000000 to 0x44000000 (--memory 64M)",
        ),
        (whole[..whole.len() / 2].to_vec(), "The kernel K is cut short: its gzip stream ends after"),
        ([&whole[..whole.len() - 8], &[0xff; 8]].concat(), "The kernel K has a damaged gzip stream"),
        (gz(b"text"), "The kernel K is not an arm64 kernel"),
        (elf(62, 2, 1, 0x4000_0000, 7), "The kernel K is an ELF file for another machine"),
        (elf(183, 1, 1, 0x4000_0000, 7), "The kernel K is a 32-bit ELF file"),
        (elf(183, 2, 2, 0x4000_0000, 7), "The kernel K is a big-endian ELF file"),
        (elf(183, 2, 1, 0x1000, 7), "The kernel K does not fit: it needs 0x1000 to 0x3000"),
        (elf(183, 2, 1, u64::MAX - 5, 7), "The kernel K has an ELF segment of impossible size"),
        (elf(183, 2, 1, 0x4000_0000, 0x1000), "The kernel K is cut short: the segment for 0x40000000"),
        (elf(183, 2, 1, 0x4000_0000, 7)[..70].to_vec(), "The kernel K is a damaged or cut-short ELF file"),
    ];
    for (bytes, want) in cases {
        let e = load(&bytes).unwrap_err();
        assert!(e.starts_with(want) && !e.contains('\n'), "want {want}\n got {e}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let m = ram();
    let e = load_kernel(&m, &Kernel::Auto(dir.path().join("none"))).unwrap_err().to_string();
    assert!(e.starts_with("Cannot read the kernel ") && e.contains("none: No such file"), "{e}");
    let e = load_kernel(&m, &Kernel::Raw(dir.path().to_owned())).unwrap_err().to_string();
    assert!(e.to_lowercase().contains("is a directory"), "{e}");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").unwrap();
    let e = load_kernel(&m, &Kernel::Auto(empty.clone())).unwrap_err().to_string();
    assert!(e.contains("is empty"), "{e}");
    let e = load_firmware(&m, &empty).unwrap_err().to_string();
    assert!(e.starts_with("The firmware ") && e.contains("is empty"), "{e}");
}

#[test]
fn an_initrd_is_loaded_or_told_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("initrd");
    std::fs::write(&path, b"cpio").unwrap();
    let m = ram();
    let p = load_initrd(&m, &(0x4000_0000..0x4100_0000), Some(&path)).unwrap();
    let at = p.initrd.unwrap();
    let mut b = [0; 4];
    seen(&m).read_slice(&mut b, GuestAddress(at.start)).unwrap();
    assert_eq!((&b, at.end - at.start), (b"cpio", 4));
    File::create(&path).unwrap().set_len(60 << 20).unwrap();
    let e = load_initrd(&m, &(0x4000_0000..0x4100_0000), Some(&path)).unwrap_err().to_string();
    assert!(e.starts_with("The initrd ") && e.contains("does not fit: it needs 61440 KiB"), "{e}");
    File::create(&path).unwrap().set_len(65 << 20).unwrap();
    let e = load_initrd(&m, &(0x4000_0000..0x4100_0000), Some(&path)).unwrap_err().to_string();
    assert!(e.contains("does not fit: there is room for 65536 KiB"), "{e}");
}

proptest! {
    #[test]
    fn damaged_kernels_never_panic(at in 0usize..0x1010, with: u8, kind in 0..3u8, cut in 1usize..0x1010) {
        let mut b = match kind {
            0 => elf(183, 2, 1, 0x4000_0000, 7),
            1 => image(0, 0x1000, 0, 0x1010),
            _ => gz(&image(0, 0x1000, 0, 0x1010)),
        };
        let i = at % b.len();
        b[i] = with;
        b.truncate(cut);
        let _ = load(&b);
    }
}
