//! A GPU as a PCI device with two DRM nodes: what libdrm needs to know a descriptor.
//!
//! libdrm goes from `/sys/dev/char/226:<minor>/device` to the PCI device: the folder `drm` names
//! its nodes, `uevent` its slot, `subsystem` its bus, and five files or `config` who it is.

use std::path::{Path, PathBuf};

use super::super::topology::GpuSpec;
use super::{DRM_MAJOR, Sysfs};

/// Bytes of the configuration space that sysfs shows to everybody.
const CONFIG_BYTES: usize = 64;

/// Adds the device, its nodes, and the links to them from bus, class and device numbers.
pub(super) fn add(tree: &mut Sysfs, gpu: &GpuSpec) {
    // As behind a root bridge of its own, so that it never meets a device of the host.
    let bridge = format!("pci{:04x}:{:02x}", gpu.pci.domain, gpu.pci.bus & 0xf0);
    let device = PathBuf::from(format!("/sys/devices/{bridge}/{}", gpu.pci));
    tree.put_link(device.join("subsystem"), "/sys/bus/pci");
    tree.put_link(device.join("driver"), "/sys/bus/pci/drivers/amdgpu");
    tree.put_link(format!("/sys/bus/pci/devices/{}", gpu.pci), &device);
    tree.put_link(format!("/sys/bus/pci/drivers/amdgpu/{}", gpu.pci), &device);
    add_identity(tree, &device, gpu);
    add_drm_node(tree, &device, &format!("renderD{}", gpu.render_minor), gpu.render_minor);
    add_drm_node(tree, &device, &format!("card{}", gpu.card_minor()), gpu.card_minor());
}

fn add_identity(tree: &mut Sysfs, device: &Path, gpu: &GpuSpec) {
    let pci = gpu.chip.pci;
    let (vendor, product) = (pci.vendor_id, pci.device_id);
    let (board_vendor, board) = (pci.subsystem_vendor_id, pci.subsystem_device_id);
    let uevent = format!(
        "DRIVER=amdgpu\nPCI_CLASS={:X}\nPCI_ID={vendor:04X}:{product:04X}\n\
         PCI_SUBSYS_ID={board_vendor:04X}:{board:04X}\nPCI_SLOT_NAME={}\n",
        pci.class, gpu.pci
    );
    let files = [
        ("class", format!("0x{:06x}\n", pci.class)),
        ("device", format!("0x{product:04x}\n")),
        ("mem_info_vram_total", format!("{}\n", gpu.vram.bytes)),
        ("mem_info_vis_vram_total", format!("{}\n", gpu.vram.public_bytes)),
        ("numa_node", format!("{}\n", gpu.cpu_node)),
        ("revision", format!("0x{:02x}\n", pci.revision)),
        ("subsystem_device", format!("0x{board:04x}\n")),
        ("subsystem_vendor", format!("0x{board_vendor:04x}\n")),
        ("uevent", uevent),
        ("unique_id", format!("{:016x}\n", gpu.unique_id)),
        ("vendor", format!("0x{vendor:04x}\n")),
    ];
    for (name, content) in files {
        tree.put_file(device.join(name), content);
    }
    tree.put_file(device.join("config"), config(gpu));
}

/// The standard header of the configuration space (PCI specification, type 0).
fn config(gpu: &GpuSpec) -> Vec<u8> {
    let pci = gpu.chip.pci;
    let mut bytes = vec![0; CONFIG_BYTES];
    bytes[0..2].copy_from_slice(&pci.vendor_id.to_le_bytes());
    bytes[2..4].copy_from_slice(&pci.device_id.to_le_bytes());
    bytes[8] = pci.revision;
    bytes[9..12].copy_from_slice(&pci.class.to_le_bytes()[..3]);
    bytes[44..46].copy_from_slice(&pci.subsystem_vendor_id.to_le_bytes());
    bytes[46..48].copy_from_slice(&pci.subsystem_device_id.to_le_bytes());
    bytes
}

fn add_drm_node(tree: &mut Sysfs, device: &Path, name: &str, minor: u32) {
    let node = device.join("drm").join(name);
    tree.put_file(node.join("dev"), format!("{DRM_MAJOR}:{minor}\n"));
    let uevent =
        format!("MAJOR={DRM_MAJOR}\nMINOR={minor}\nDEVNAME=dri/{name}\nDEVTYPE=drm_minor\n");
    tree.put_file(node.join("uevent"), uevent);
    tree.put_link(node.join("device"), device);
    tree.put_link(node.join("subsystem"), "/sys/class/drm");
    tree.put_link(format!("/sys/class/drm/{name}"), &node);
    tree.put_link(format!("/sys/dev/char/{DRM_MAJOR}:{minor}"), &node);
}
