"""VirtualBox as this host has it: what VBoxManage and the settings files say, and exports."""
