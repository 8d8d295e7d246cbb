# SPDX-License-Identifier: Apache-2.0
"""Start the localizer: ros2 launch thermal_nerf_loc localization.launch.py map:=FILE."""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).resolve().parents[1]  # the package's share folder, or its sources
PROFILES = ('FASTRTPS_DEFAULT_PROFILES_FILE',  # Fast DDS 2: Humble, Jazzy
            'FASTDDS_DEFAULT_PROFILES_FILE')  # Fast DDS 3: Kilted, Rolling
ARGUMENTS = (
    ('map', None, 'map file to localize in'),
    ('params_file', str(SHARE / 'config' / 'localizer.yaml'), 'parameters of the node'),
    ('namespace', '', 'of the node, for several robots'),
    ('tf', 'tf', 'tf topic: in the namespace, as in nav2_bringup; /tf: one for all robots'),
    ('tf_static', 'tf_static', 'the same for static transforms'),
    ('use_sim_time', 'false', 'take time from /clock'),
    ('rgb_image', 'rgb/image_raw', 'RGB image topic'),
    ('rgb_camera_info', 'rgb/camera_info', 'camera_info of the RGB camera'),
    ('thermal_image', 'thermal/image_raw', 'thermal image topic'),
    ('thermal_camera_info', 'thermal/camera_info', 'camera_info of the thermal camera'),
    ('autostart', 'true', 'false: a lifecycle manager configures and activates the node'),
    ('rviz', 'false', 'show map, path, pose, cameras and tf in RViz'),
    ('rviz_config', str(SHARE / 'config' / 'localization.rviz'), 'what RViz shows'),
    ('log_level', 'info', 'debug, info, warn, error or fatal'),
)


def use_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """Set the profile of Fast DDS under both names; one that the user has chosen is respected."""
    chosen = [context.environment[name] for name in PROFILES if context.environment.get(name)]
    profile = chosen[0] if chosen else str(SHARE / 'config' / 'fastdds.xml')
    return [SetEnvironmentVariable(name, profile) for name in PROFILES]


def generate_launch_description() -> LaunchDescription:
    """Describe the node, with a DDS profile that does not lose images, and RViz on request."""
    use_sim_time = ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)
    remappings = [(f'{camera}/{inside}', LaunchConfiguration(f'{camera}_{outside}'))
                  for camera in ('rgb', 'thermal')
                  for inside, outside in (('image_raw', 'image'), ('camera_info', 'camera_info'))]
    remappings += [('/tf', LaunchConfiguration('tf')),
                   ('/tf_static', LaunchConfiguration('tf_static'))]
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=use_profile),
        Node(
            package='thermal_nerf_loc', executable='localizer_node', name='localizer',
            namespace=LaunchConfiguration('namespace'), output='screen',
            parameters=[LaunchConfiguration('params_file'), {
                'map': ParameterValue(LaunchConfiguration('map'), value_type=str),
                'autostart': ParameterValue(LaunchConfiguration('autostart'), value_type=bool),
                'use_sim_time': use_sim_time}],
            remappings=remappings,
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')]),
        # Its topics are relative: in a namespace it shows that robot.
        Node(
            package='rviz2', executable='rviz2', name='rviz',
            namespace=LaunchConfiguration('namespace'), output='log',
            condition=IfCondition(LaunchConfiguration('rviz')),
            parameters=[{'use_sim_time': use_sim_time}], remappings=remappings,
            arguments=['-d', LaunchConfiguration('rviz_config')]),
    ])
